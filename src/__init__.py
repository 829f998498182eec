"""The library: from an archive of images to a trained model, its images and their scores.

A folder imports only from those above it in this list. `src/` takes paths as arguments and never
calls DVC.

    common/         data sets, files, errors, randomness, devices, processes;
    diffusion/      schedules, U-Net, denoiser, samplers; imports only torch, so you can copy it;
    (files here)    classifier, drawing, PNGs, model files, parameters, provenance;
    archives/       reads archives and folders of images as arrays;
    training/       the trainer, its optimiser, checkpoints;
    measure/        distances and scores of generated images, bits per dimension;
    show/           the figures and the page of the report;
    demo/           the requests that the demo accepts, and its trajectories.
"""
