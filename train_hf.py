"""
Trains and scores audio-visual emotion recognition.

    python train_hf.py RECIPE.yaml [--flag value …]
    accelerate launch train_hf.py RECIPE.yaml …
    torchrun --nproc_per_node 2 train_hf.py RECIPE.yaml …

A recipe is a YAML or JSON file of the flags; flags on the command line override it. `--help` lists them.
`--resume` goes on where a run was broken off. `--fold all` trains and scores each fold, `--seeds 3` each seed. A
finished run is not replaced without `--overwrite true`.

Several processes train together on accelerators or, where there is none, on CPUs, where `mpirun` can start them too.
On several hosts, start this on each of them:

    torchrun --nnodes 2 --node_rank 0|1 --master_addr HOST_0 --master_port 29500 --nproc_per_node 1 train_hf.py …

`output_dir` may be one folder that all hosts share, or a folder on the disk of each host, which may have another name
there. Process 0 writes results, predictions and card. Checkpoints and the model are written once to a shared folder,
or else to the folder of each host (`save_on_each_node` is set by this), and `--resume` starts from the last checkpoint
that is complete on all of them: give it on every host. If a process ends or its host cannot be reached, the others end
with a message: at once where the connection is closed, and else after `--ddp_timeout` seconds (1800).
"""

from modeling_aver.training.run import main, run_command

__all__ = ["main"]

if __name__ == "__main__":
    run_command()
