"""The trainer on Megatron-core: one implementation of the Trainer protocol, on CPU over gloo or on GPU over NCCL."""
