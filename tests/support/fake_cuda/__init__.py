"""A process in which torch finds a CUDA device that computes nothing: waits for it, and copies, are recorded.

Tensors of ``cuda:0`` have shapes and types, but no values (torch's FakeTensor); tensors of the host are real. What is
read of the device is made up: 1, 1.0, True. The engine that runs here is the real one, of one rank of any grid, whose
peers are made up, too.

- `library` compiles what torch asks of a device in C++; `server` starts the process and runs functions in forks of it.
- `recording` holds what is recorded; `device` and `torch_cuda` record it; `processes` makes up the other ranks.
"""
