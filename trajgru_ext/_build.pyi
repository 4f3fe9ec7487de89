torch_version: str
cuda_version: str | None
cuda_architectures: str
no_cuda_kernels: str
