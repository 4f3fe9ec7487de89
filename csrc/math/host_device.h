#pragma once

// Marks a function for both sides of a CUDA build; nothing elsewhere.
#if defined(__CUDACC__)
#define TRAJGRU_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define TRAJGRU_HOST_DEVICE inline
#endif
