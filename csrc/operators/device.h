#pragma once

// What an operator asks of a device: the contract that csrc/cpu/*_device.h and
// csrc/cuda/*_device.h fulfil. The Tensor side of an operator (operators/<family>/) is
// a template on such a device; it checks the arguments, brings them into one layout,
// makes the results and fills the struct of arguments that csrc/math/<operator>.h
// reads.
//
// Every device has
//
//   Guard(at::Device)   makes the device current while it lives
//
// One for gate updates, whose structs have rows (math/gate_rows.h):
//
//   kRowLength                    the most elements of a row of planes
//   kAddsBiases                   whether gru_step and lstm_step take biases
//   run(args, sums_samples)       update(args, place) at every place of all rows. Where
//                                 the samples are summed up, one thread goes through a
//                                 place in all samples, in order
//   sum_pixels(images)            [N, F, 1, 1], the sum over the pixels
//
// One for operators on branches (math/branches.h):
//
//   chunk(planes, channels, pixels)   pixels that are summed up in one go
//   loop(args)                        the loop over all pixels of args
//   run(args, items)                  compute(args, item) for every item
//   contiguous(image, format)         the image in a memory format

#include <ATen/core/Tensor.h>

#include <concepts>
#include <cstdint>

namespace trajgru_ext {

template <typename Device>
concept GateDevice = std::constructible_from<typename Device::Guard, at::Device> &&
                     requires(const at::Tensor& images) {
                       { Device::kRowLength } -> std::convertible_to<int64_t>;
                       { Device::kAddsBiases } -> std::convertible_to<bool>;
                       { Device::sum_pixels(images) } -> std::same_as<at::Tensor>;
                     };

template <typename Device>
concept BranchDevice =
    std::constructible_from<typename Device::Guard, at::Device> &&
    requires(const at::Tensor& image, at::MemoryFormat format, int64_t count) {
      { Device::contiguous(image, format) } -> std::same_as<at::Tensor>;
      { Device::chunk(true, count, count) } -> std::convertible_to<int64_t>;
    };

}  // namespace trajgru_ext
