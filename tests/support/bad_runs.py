"""More wrong inputs: what cannot be combined, callbacks, the Trainer, folders, checkpoints, and this machine."""

from __future__ import annotations

from bad_inputs import HUGE, REAL, STATE, Bad, callback, fit, two

COMBINATIONS = {
    "batch larger than the seed phase": fit(
        "--data.batch_size=30", says=r"data\.batch_size=30 is larger than the 20 transitions .*num_seed_frames >= 60"
    ),
    "evaluation between env steps": fit(
        "--data.eval_every_n_frames=101", says=r"data\.eval_every_n_frames=101 must be a multiple of .*= 2"
    ),
    "n-step longer than the episode": fit(
        *REAL,
        "--data.action_repeat=50",
        "--data.n_step=21",
        says=r"data\.n_step=21 .*episode.*20 env steps.*lower --data\.n_step",
    ),
    "n-step longer than a tiny episode": fit("--data.n_step=21", says=r"data\.n_step=21 .*20 env steps"),
    "run within the seed phase": fit(
        "--max_frames=40", says=r"max_frames=40 .*num_seed_frames=40.*never.*raise --max_frames"
    ),
    "replay smaller than a window": fit(
        "--data.capacity=5", "--data.batch_size=4", says=r"data\.capacity=5 must be at least 6: "
    ),
    "replay smaller than a batch": fit(
        "--data.capacity=7", says=r"data\.capacity=7 keeps fewer transitions than .*data\.batch_size=8\): raise"
    ),
    "drawing on a device from memory": fit(
        "--data.draw_on_device=true",
        says=r"data\.draw_on_device=true .*data\.storage=ram is not on the device .*add --data\.storage device",
    ),
    "drawing on a device from files": fit(
        "--data.draw_on_device=true", "--data.storage=memmap", says=r"data\.draw_on_device=true .*data\.storage=memmap"
    ),
    "drawing on a device by priority": fit(
        "--data.draw_on_device=true",
        "--data.storage=device",
        "--data.prioritized=true",
        says=r"data\.draw_on_device=true .*cannot be had with data\.prioritized=true: leave out one",
    ),
    "drawing on a device by age": callback(
        "SampleWeightDecay",
        "",
        r"SampleWeightDecay: data\.draw_on_device=true draws transitions of any age alike; use one",
        "--data.draw_on_device=true",
        "--data.storage=device",
    ),
    "a run for development only": fit("--trainer.fast_dev_run=true", says=r"fast_dev_run=True .* --max_frames"),
    "clipping by a negative": fit("--trainer.gradient_clip_val=-1", says=r"gradient_clip_val=-1.* leave it out"),
    **{
        f"{name}, a base": Bad(
            ("fit",),
            rf"{name.rpartition('.')[2]} is a base for callbacks of your own .*list callbacks",
            f"trainer: {{callbacks+: [{{class_path: {name}}}]}}",
        )
        for name in ("plasticity_rl.Intervention", "plasticity_rl.callback.Probe", "lightning.pytorch.Callback")
    },
    "replay of several smaller than a window": fit(
        "--data.capacity=20",
        "--data.num_envs=4",
        "--data.eval_every_n_frames=80",
        says=r"data\.capacity=20 must be at least 24: ",
    ),
    "SAC from pixels": fit(
        "--data.observation=pixels", says=r"SAC reads states.*--data\.observation state", base="sac"
    ),
    "augmenting states": fit(
        "--data.observation=state", "--model.augment=true", says=r"augment.*states are not augmented"
    ),
    "augmentations of states": fit(
        "--data.observation=state",
        "--model.augmentations+=plasticity_rl.augment.RandomShift",
        says=r"model\.augmentations: states are not augmented",
    ),
    **{
        f"{name} on states": callback(
            name, arguments, rf"{name} works on images, but .* state; .*--data\.observation pixels", *STATE
        )
        for name, arguments in {
            "ToggleAugmentation": "at_frame: 50, on: false",
            "CURL": "",
            "FrozenEncoder": "",
            "RandomFrozenEncoder": "",
        }.items()
    },
    "ToggleAugmentation with SAC": callback(
        "ToggleAugmentation", "at_frame: 50, on: false", r"ToggleAugmentation works on images", base="sac"
    ),
    "encoder of states": callback(
        "Reset", "modules: [encoder], at_frames: [50]", r"no module 'encoder'.*actor", *STATE
    ),
    "two that set the replay ratio": two(
        ("AdaptiveReplayRatio", ""),
        ("ReplayRatioSchedule", "at_frames: [0], replay_ratios: [1.0]"),
        r"(AdaptiveReplayRatio|ReplayRatioSchedule) cannot run beside .*both set the replay ratio",
    ),
    "two activations": two(
        ("CReLU", ""), ("RationalActivation", ""), r"cannot run beside .*both replace the activation"
    ),
    "two on the same features": two(
        ("InFeR", "modules: [critic.Q1]"), ("InFeR", "num_heads: 3"), r"InFeR cannot run beside InFeR: both regress"
    ),
    "one prunes what the other recycles": two(("PruneDormant", ""), ("ReDo", ""), r"cannot run beside"),
    "the same twice": two(("ReDo", ""), ("ReDo", ""), r"ReDo is given twice with the same arguments; remove one"),
}

LIGHTNING = "lightning.pytorch.callbacks"
EARLY_STOPPING = f"{{class_path: {LIGHTNING}.EarlyStopping, init_args: {{monitor: eval/return}}}}"


def lightning(name: str, arguments: str, says: str) -> Bad:
    """One callback of Lightning's."""
    entry = f"{{class_path: {LIGHTNING}.{name}, init_args: {{{arguments}}}}}"
    return Bad(("fit",), says, f"trainer: {{callbacks+: [{entry}]}}")


CALLBACKS = {
    "module that is not there": callback(
        "Reset", "modules: [critc], at_frames: [50]", r"no module 'critc'.*mean critic"
    ),
    "period 0": callback("Reset", "every_n_frames: 0", r"Reset\.every_n_frames / at_frames: the period is 0"),
    "no schedule": callback("Reset", "", r"Reset\.every_n_frames / at_frames: no schedule given; set a period"),
    "negative frame": callback("Reset", "at_frames: [-1]", r"Reset\..*moments are \[-1\]"),
    "frame after the end": callback(
        "Reset", "at_frames: [5000]", r"Reset\.at_frames: .*5000 never happens .*raise --max_frames above 5000"
    ),
    "fraction above 1": callback(
        "ShrinkAndPerturb", "shrink: 1.5, at_frames: [50]", r"shrink=1\.5 must be in \[0, 1\]"
    ),
    "reset of nothing": callback(
        "Reset", "modules: [], at_frames: [50]", r"Reset\.modules=\[\] names no module.*leave it out"
    ),
    "dormant at nothing": callback("DormantUnits", "taus: []", r"DormantUnits\.taus=\[\] must be one or more"),
    "threshold of 1": callback("ReDo", "tau: 1.0", r"ReDo\.tau=1\.0 must be in \[0, 1\)"),
    "recycling batch of 0": callback("ReDo", "batch_size: 0", r"ReDo\.batch_size=0 must be a whole number >= 1"),
    "negative coefficient": callback("L2Init", "coefficient: -1", r"L2Init\.coefficient=-1(\.0)? must be >= 0"),
    "coefficient of nan": callback("L2Init", "coefficient: .nan", r"L2Init\.coefficient=nan must be >= 0"),
    "unknown loss": callback("L2Init", "loss: foo", r"no loss 'foo' in DrQV2; there are \['critic', 'actor'\]"),
    "penalty of what is not trained": callback(
        "WeightDecay", "modules: [actor]", r"WeightDecay: the critic loss .*'actor'"
    ),
    "ratios and frames differ": callback(
        "ReplayRatioSchedule",
        "at_frames: [0, 5], replay_ratios: [1.0]",
        r"at_frames=\[0, 5\] must ascend and be as many",
    ),
    "tasks do not begin with the run's": callback(
        "ContinualTasks", "tasks: [walker_run], every_n_frames: 50", r"must begin with data\.task=tiny"
    ),
    "unknown task in a cycle": callback(
        "ContinualTasks",
        "tasks: [cartpole_swingup, cartpole_swingdown], every_n_frames: 50",
        r"task='cartpole_swingdown' .*Did you mean .*cartpole_swingup",
        *REAL,
    ),
    "donor that is not there": callback("WarmStartReplay", "path: FOLDER/none", r"WarmStartReplay\.path.*FOLDER/none"),
    "unknown pretrained network": callback(
        "FrozenEncoder",
        "architecture: resnet17",
        r"FrozenEncoder.*architecture: expected one of 'resnet18'.*got resnet17",
    ),
    "features that no memory holds": callback(
        "RandomFrozenEncoder",
        "feature_dim: 1000000000000",
        r"RandomFrozenEncoder\.feature_dim=10+ must be at most 65536",
    ),
    "pruning everything": callback(
        "RandomPruning", "sparsity: 1.0", r"RandomPruning\.sparsity=1\.0 must be in \[0, 1\)"
    ),
    "width 0": callback("WiderNetwork", "factor: 0", r"WiderNetwork\.factor=0(\.0)? must be"),
    "probe never": callback(
        "FractionActiveUnits", "every_n_updates: 0", r"FractionActiveUnits\.every_n_updates: .*is 0"
    ),
    "probe of no module": callback("SRank", "modules: [critc]", r"no module 'critc'.*Did you mean critic"),
    "rank of too much": callback("SRank", "delta: 2.0", r"SRank\.delta=2\.0 must be in"),
    "dormant at a negative": callback("DormantUnits", "taus: [-1.0]", r"DormantUnits\.taus=\[-1\.0\] must be"),
    "probe batch of 0": callback("SRank", "batch_size: 0", r"SRank\.batch_size=0 must be a whole number >= 1"),
    "adaptive replay ratio without end": callback(
        "AdaptiveReplayRatio", "high: 1.0e+300", r"AdaptiveReplayRatio\.high=1e\+300 must be at most 1000"
    ),
    "scheduled replay ratio without end": callback(
        "ReplayRatioSchedule",
        "at_frames: [0], replay_ratios: [5000.0]",
        r"ReplayRatioSchedule\..*=5000\.0 must be at m",
    ),
    "probe batch larger than memory": callback(
        "SRank", "batch_size: 1000000000000", r"SRank\.batch_size=1000000000000: .* take \d+ bytes .*available"
    ),
    "views shifted by the whole image": callback(
        "CURL", "random_shift_pad: 16", r"CURL\.random_shift_pad=16 must be less than the 16 pixels"
    ),
    "a module twice": callback("SRank", "modules: [critic.Q1, critic.Q1]", r"SRank\.modules=.* lists critic\.Q1 twice"),
    "a threshold twice": callback("DormantUnits", "taus: [0.1, 0.1]", r"DormantUnits\.taus=.* lists 0\.1 twice; rem"),
    "a frame twice": callback("Reset", "at_frames: [50, 50]", r"Reset\.at_frames=\[50, 50\] lists 50 twice; remove"),
    "null for a module": callback("AdaptiveReplayRatio", "module: null", r"Ratio\.module: null is no value; leave it"),
    "iterations without end": callback(
        "HessianTop", "num_iterations: 1000000000000", r"HessianTop\.num_iterations=10+ must be at most 10000: each"
    ),
    "fits without end": callback(
        "RandomTargetFit", "num_steps: 1000000000000", r"RandomTargetFit\.num_steps=10+ must be at most 1000000"
    ),
    "priming without end": callback(
        "HeavyPriming", "num_updates: 1000000000000", r"HeavyPriming\.num_updates=10+ must be at most 100000000"
    ),
    "heads without end": callback("InFeR", "num_heads: 1000000000", r"InFeR\.num_heads=10+ must be at most 100000:"),
    "width without end": callback("WiderNetwork", "factor: 1.0e+6", r"WiderNetwork\.factor=10+\.0 must be at most 32"),
    **{
        f"{name} of Lightning": lightning(name, arguments, rf"{name} .*; give --\w+\.\w+; remove it from")
        for name, arguments in {
            "BatchSizeFinder": "",
            "LearningRateFinder": "",
            "GradientAccumulationScheduler": "scheduling: {0: 2}",
        }.items()
    },
    "averaging of Lightning": lightning(
        "StochasticWeightAveraging", "swa_lrs: 0.1", r"StochasticWeightAveraging needs .*HareAndTortoise; remove it"
    ),
    "checkpoint by what is not logged": lightning(
        "ModelCheckpoint", "monitor: eval/retrun", r"ModelCheckpoint\.monitor='eval/retrun' .*Did you mean eval/return"
    ),
    "early stop by what is not logged": lightning(
        "EarlyStopping",
        "monitor: loss",
        r"EarlyStopping\.monitor='loss' is not logged through.* can monitor it; there are .*eval/return",
    ),
    "early stop twice": Bad(
        ("fit",),
        r"EarlyStopping is given twice with the same arguments; remove one",
        f"trainer: {{callbacks+: [{EARLY_STOPPING}, {EARLY_STOPPING}]}}",
    ),
    "unknown definition": callback("FractionActiveUnits", "definition: other", r"definition: expected .*got other"),
}

TRAINER = {
    "unknown accelerator": fit("--trainer.accelerator=abacus", says=r"trainer: .*accelerator.*'abacus'.*cpu"),
    "no devices": fit("--trainer.devices=0", says=r"trainer\.devices.*0.*(1|auto)"),
    "negative devices": fit("--trainer.devices=-3", says=r"trainer.*devices.*-3"),
    "devices of text": fit("--trainer.devices=many", says=r"trainer.*devices.*many"),
    "no list of devices": fit("--trainer.devices=[]", says=r"trainer.*devices.*\[\]"),
    "unknown strategy": fit("--trainer.strategy=ddpp", says=r"trainer.*strategy.*'ddpp'.*ddp"),
    "unknown precision": fit("--trainer.precision=17", says=r"trainer\.precision.*17"),
    "precision of float64": fit("--trainer.precision=64-true", says=r"trainer\.precision=64-true: DrQV2.*32-true"),
    "steps instead of frames": fit("--trainer.max_steps=100", says=r"trainer\.max_steps=100.*--max_frames"),
    "epochs instead of frames": fit(
        "--trainer.max_epochs=3", says=r"trainer\.max_epochs=3 counts evaluations.*--max_frames"
    ),
    "least epochs": fit("--trainer.min_epochs=3", says=r"trainer\.min_epochs=3 counts evaluations.*--max_frames"),
    **{
        f"{name} of a data set": fit(
            f"--trainer.{name}={value}", says=rf"trainer\.{name}=.* is for data sets.*--data\.eval_every_n_frames"
        )
        for name, value in {
            "limit_train_batches": 10,
            "limit_val_batches": 0,
            "overfit_batches": 1,
            "val_check_interval": 7,
            "check_val_every_n_epoch": 0,
            "num_sanity_val_steps": 2,
        }.items()
    },
    "accelerator without its package": fit(
        "--trainer.accelerator=tpu", says=r"trainer\.accelerator=tpu: .*torch_xla.*cpu"
    ),
    "clipping by the trainer": fit("--trainer.gradient_clip_val=1.0", says=r"gradient_clip_val=1\.0"),
    "accumulation": fit("--trainer.accumulate_grad_batches=4", says=r"accumulate_grad_batches=4"),
    "nodes without a launcher": fit("--trainer.num_nodes=2", says=r"num_nodes=2, but nothing .*MASTER_ADDR.*multi_gpu"),
    "no nodes": fit("--trainer.num_nodes=0", says=r"num_nodes` must be a positive integer.*--trainer\.num_nodes=0"),
    "negative interval of logging": fit("--trainer.log_every_n_steps=-1", says=r"trainer\.log_every_n_steps=-1.*>= "),
    "unknown logger": fit("--trainer.logger=Foo", says=r"trainer\.logger: no class 'Foo'; write its path"),
    "plugin that is not there": fit("--trainer.profiler=magic", says=r"trainer.*profiler.*magic"),
}

FOLDERS = {
    "run folder without a name": fit(
        "--trainer.default_root_dir=", says=r"default_root_dir='' names no folder; give one"
    ),
    "run folder is a file": fit(
        "--trainer.default_root_dir=FOLDER/file",
        says=r"FOLDER/file cannot be written \((Not a directory|File exists)\)",
    ),
    "run folder in a file": fit(
        "--trainer.default_root_dir=FOLDER/file/run",
        says=r"cannot be written \(Not a directory\).*--trainer\.default_root",
    ),
    "run folder in /proc": fit(
        "--trainer.default_root_dir=/proc/run", says=r"/proc/run cannot be written .*choose another"
    ),
    "run folder that holds a run": fit(
        "--trainer.default_root_dir=FOLDER/occupied", says=r"occupied already holds a run: continue .*--ckpt_path last"
    ),
    "replay folder in a file": fit("--data.replay_dir=FOLDER/file/replay", says=r"data\.replay_dir.*cannot be written"),
    "no checkpoint to continue": fit("--ckpt_path=last", says=r"--ckpt_path last: no checkpoint in FOLDER/run; name"),
    "no such checkpoint": fit(
        "--ckpt_path=FOLDER/none.ckpt", says=r"--ckpt_path FOLDER/none\.ckpt: no such file; give"
    ),
    "folder as checkpoint": fit(
        "--ckpt_path=FOLDER/occupied", says=r"--ckpt_path FOLDER/occupied: is a folder; give .*last\.ckpt"
    ),
    "text as checkpoint": fit("--ckpt_path=FOLDER/text.ckpt", says=r"FOLDER/text\.ckpt is not a checkpoint"),
    "unknown word as checkpoint": fit("--ckpt_path=best", says=r"--ckpt_path best: no such file; give .*'last'"),
    "evaluating no checkpoint": Bad(("validate", "--ckpt_path=FOLDER/none.ckpt"), r"none\.ckpt: no such file"),
    "replay slack larger than memory": fit(
        "--data.resumable_epochs=1000000000000", says=r"refuses to reserve \d+ bytes .*Lower .*--data\.resumable_epochs"
    ),
    "replay larger than memory": fit(*HUGE, says=r"needs \d+ bytes .* of memory .* --data\.capacity.* memmap"),
    "replay larger than the disk": fit(
        *HUGE, "--data.storage=memmap", says=r"needs \d+ bytes .* of disk .* --data\.capacity"
    ),
}
