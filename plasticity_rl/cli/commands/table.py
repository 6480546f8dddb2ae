"""The commands of the console script, each with what it does. Light."""

COMMANDS = {
    "fit": "train an agent, or continue a run with --ckpt_path last",
    "validate": "evaluate a checkpoint: plasticity-rl validate --ckpt_path RUN/checkpoints/last.ckpt",
    "probe": "measure the networks of a checkpoint, or compare two: plasticity-rl probe RUN/checkpoints/last.ckpt",
    "doctor": "check this machine: versions, GPU, rendering, threads, and memory and disk for --config FILE",
    "study": "run every arm, task and seed of a study: plasticity-rl study run STUDY.yaml --workers 2",
    "plot": "draw return and FAU of runs: plasticity-rl plot RUN [RUN ...] --out figure.png",
    "list": "list configs, callbacks, tasks or studies, a line each: plasticity-rl list callbacks",
    "init": "copy the packaged configs and examples into a folder, to edit: plasticity-rl init DIR",
    "completion": "print a script that completes options and names: source <(plasticity-rl completion bash)",
}
