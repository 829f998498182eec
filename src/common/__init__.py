"""What every stage needs: data sets, files, errors, randomness, devices, processes."""
