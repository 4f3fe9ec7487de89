// torch.ops.emulated.plant: a kernel that copies numbers, launched with a fault, to
// show that the device catches it; without a fault all is right.

#include <torch/library.h>

#include "cuda/runtime.h"
#include "device/backend.h"

namespace emulation {
namespace {

__global__ void copy_kernel(const float* from, float* to, int64_t count) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t k = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; k < count;
       k += step) {
    to[k] = from[k];
  }
}

template <typename T>
struct View {
  T* data;
  int64_t step;
};
struct Sources {
  View<const float> from[2];  // the first is absent
};
struct Copy : Sources {
  int64_t count;
  View<float> to;
};

__global__ void copy_views_kernel(Copy args) {
  copy_kernel(args.from[1].data, args.to.data, args.count);
}

// The address is no pointer until the kernel makes it one: no launch sees it.
__global__ void copy_hidden_kernel(uint64_t hidden, float* to) {
  *to = *reinterpret_cast<const float*>(~hidden);
}

void plant(const at::Tensor& from, const at::Tensor& to, std::string_view fault) {
  namespace cuda = trajgru_ext::cuda;
  std::optional<cuda::DeviceGuard> guard;
  if (fault != "no guard") guard.emplace(to.device());
  const float* source = from.const_data_ptr<float>();
  const std::vector<float> host(from.numel());
  if (fault == "memory of the host") source = host.data();
  if (fault == "a dead temporary") source = (from + 1).const_data_ptr<float>();
  if (fault == "a read by the host") to.fill_(*source);
  if (fault == "a write by the host") *to.mutable_data_ptr<float>() = 1;
  if (fault == "a number that the host waits for") to.fill_(from.sum().item());
  Stream stream = cuda::current_stream();
  if (fault == "the default stream") stream.id = 0;
  const auto address = reinterpret_cast<uint64_t>(source);
  if (fault == "a hidden address" || fault == "an address of nothing") {
    const uint64_t beyond = fault == "a hidden address" ? 0 : uint64_t(1) << 36;
    cuda::launch(copy_hidden_kernel, dim3(1), dim3(cuda::kBlock), 0, stream,
                 ~(address + beyond), to.mutable_data_ptr<float>());
    return;
  }
  if (fault == "nothing, by a struct") {
    const Copy args{
        {{{nullptr, 0}, {source, 1}}}, from.numel(), {to.mutable_data_ptr<float>(), 1}};
    cuda::launch(copy_views_kernel, dim3(cuda::grid_size(from.numel())),
                 dim3(cuda::kBlock), 0, stream, args);
    return;
  }
  cuda::launch(copy_kernel, dim3(cuda::grid_size(from.numel())), dim3(cuda::kBlock), 0,
               stream, source, to.mutable_data_ptr<float>(), from.numel());
}

TORCH_LIBRARY_FRAGMENT(emulated, m) {
  m.def("plant(Tensor from, Tensor(a!) to, str fault) -> ()", &plant);
}

}  // namespace
}  // namespace emulation
