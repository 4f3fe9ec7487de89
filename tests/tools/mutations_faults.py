"""The faults that mutations.py plants."""

from dataclasses import dataclass


@dataclass
class Fault:
    """`right` in the file becomes `wrong`; `tests`, by `compiled`, should notice."""

    name: str
    file: str
    right: str
    wrong: str
    compiled: str
    tests: str
    sanitizer: str = ""


BORDERS = "return row >= 0 && row < height && col >= 0 && col < width;"
IN_ORDER = ("cuda/flow_warp.cu", "fixed_order")
ON_DEVICES = ("cuda/flow_conv.cu", "devices")
FUSED = ("cuda/flow_conv.cu", "flow_conv_fused")
IN_TILES = (
    "cuda/flow_conv_gru_step.cu cuda/flow_conv.cu cuda/gru_step.cu",
    "flow_conv_gru_step",
)
# What operators are compiled with, whichever it is.
CALLED = ("cuda/ordered_sums.cu", "cuda/flow_conv_fused.cu")
FAULTS = [
    Fault(
        *("the top border off by one", "math/bilinear.h", BORDERS),
        *(BORDERS.replace("row >= 0", "row >= 1"), "cuda/flow_warp.cu", "flow_warp"),
    ),
    Fault(
        *("the right border off by one", "math/bilinear.h", BORDERS),
        *(BORDERS.replace("col <", "col <="), "cuda/flow_warp.cu", "flow_warp"),
    ),
    Fault(
        *("the bottom border off by one", "math/bilinear.h", "cell.row < height &&"),
        *("cell.row < height - 1 &&", "cuda/flow_warp.cu", "flow_warp"),
    ),
    Fault(
        *("the left border off by one", "math/bilinear.h", "cell.col >= -1"),
        *("cell.col >= 0", "cuda/flow_warp.cu", "flow_warp"),
    ),
    Fault(
        *("a missing atomic", "cuda/warp_pixel.cuh"),
        "atomicAdd(to, weight * static_cast<coord_t>(g.value[0]))",
        "*to += weight * static_cast<coord_t>(g.value[0])",
        *("cuda/flow_warp.cu", "flow_warp", "thread"),
    ),
    Fault(
        *("offsets of 32 bits", "cuda/images.h", "if (last >= kLimit) return false;"),
        *("", "cuda/flow_warp.cu", "flow_warp"),
    ),
    Fault(
        *("NaN converted to an integer", "math/bilinear.h"),
        "!(std::fabs(u) < limit && std::fabs(v) < limit)",
        "std::fabs(u) >= limit || std::fabs(v) >= limit",
        *("cuda/flow_warp.cu", "flow_warp"),
    ),
    Fault(
        *("a gradient overwritten before it is read", "cuda/warp_pixel.cuh"),
        *("__syncwarp()", "(void)0", *ON_DEVICES),
    ),
    Fault(
        *("a slice multiplied before it is gathered", "cuda/flow_conv_fused.cuh"),
        "      __syncthreads();\n    }\n",
        *("    }\n", *FUSED),
    ),
    Fault(
        *("the same, seen as a race", "cuda/flow_conv_fused.cuh"),
        "      __syncthreads();\n    }\n",
        *("    }\n", *FUSED, "thread"),
    ),
    Fault(
        *("a tile off by one", "cuda/flow_conv_fused.cuh"),
        *("sample = line / down;", "sample = (line + 1) / down;", *FUSED),
    ),
    Fault(
        *("a fragment of the columns beside its own", "cuda/tile_products.cuh"),
        "row_of(weight, warp_column() + j * kSide)",
        *("row_of(weight, warp_column() + (2 - j) * kSide)", *FUSED),
    ),
    Fault(
        *("operands that are not rounded", "cuda/tile_products.cuh"),
        *("return wmma::__float_to_tf32(value)", "return value", *FUSED),
    ),
    Fault(
        *("a sum in its neighbour's place", "cuda/tile_products.cuh"),
        *("(across ^ (other ? 1 : 0))", "across", *FUSED),
    ),
    Fault(
        *("a gate taken for another", "cuda/flow_conv_gru_step.cuh"),
        *("column / kSide % kGates", "(column / kSide + 1) % kGates", *IN_TILES),
    ),
    Fault(
        *("the state of the next pixel", "cuda/flow_conv_gru_step.cuh"),
        *("{0, first + col, feature}", "{0, first + (col ^ 1), feature}", *IN_TILES),
    ),
    Fault(
        *("sums in any order", "cuda/flow_warp.cu"),
        *("to.input_grad.defined() && in_fixed_order()", "false", *IN_ORDER),
    ),
    Fault(
        *("an unstable order", "cuda/ordered_sums.cu"),
        "const auto [sorted, order] = "
        "at::sort(cell, /*stable=*/true, 0, /*descending=*/false);",
        "const Tensor any = fraction.select(1, 0).clone().uniform_().argsort();\n"
        "const auto [sorted, places] = "
        "at::sort(cell.index_select(0, any), true, 0, false);\n"
        "const Tensor order = any.index_select(0, places);",
        *IN_ORDER,
    ),
    Fault(
        *("a pixel without its cells' last warps", "cuda/ordered_sums.cuh"),
        *("args.begin[left + 2]", "args.begin[left + 2] - 1", *IN_ORDER),
    ),
    Fault(
        *("cells beside each other taken for one", "cuda/ordered_sums.cuh"),
        *("2 * below + (k < middle)", "2 * below + (k <= middle)", *IN_ORDER),
    ),
    Fault(
        *("a piece of the second sample in the first", "cuda/ordered_sums.cu"),
        *("narrow(0, extent.first_sample,", "narrow(0, 0,", *IN_ORDER),
    ),
    Fault(
        *("a warp's sum without its last lanes", "cuda/branch_kernels.cuh"),
        *("distance = kWarpThreads / 2", "distance = kWarpThreads / 4"),
        *("cuda/channel_mean.cu", "block_operators"),
    ),
    Fault(
        *("the softmax overflows", "math/branches.h", " - largest)", ")"),
        *("cuda/sk_select.cu", "block_operators fuzz"),
    ),
    Fault(
        *("the first bin off by one", "math/spatial_pyramid_pool.h"),
        *("(kernel * bins - size + 1) / 2", "(kernel * bins - size) / 2"),
        *("cuda/spatial_pyramid_pool.cu", "fuzz"),
    ),
    Fault(
        *("a part of a bin left out", "cuda/spatial_pyramid_pool.cuh"),
        *("part < parts; ++part", "part < 1; ++part"),
        *("cuda/spatial_pyramid_pool.cu", "spatial_pyramid_pool"),
    ),
    Fault(
        *("bins written before they are pooled", "cuda/spatial_pyramid_pool.cuh"),
        "    __syncthreads();\n    for (int64_t k = threadIdx.x",
        "    for (int64_t k = threadIdx.x",
        *("cuda/spatial_pyramid_pool.cu", "block_operators", "thread"),
    ),
    Fault(
        *("gradients of bins overwritten while they are read",),
        *("cuda/spatial_pyramid_pool.cuh", "__syncthreads();  // the bins before"),
        *("// the bins before", "cuda/spatial_pyramid_pool.cu", "block_operators"),
        "thread",
    ),
    Fault(
        *("gradients of bins read before they are there",),
        *("cuda/spatial_pyramid_pool.cuh", "__syncthreads();  // these bins"),
        *("// these bins", "cuda/spatial_pyramid_pool.cu", "block_operators"),
        "thread",
    ),
    Fault(
        *("bins of the next item among those of the last",),
        *("cuda/spatial_pyramid_pool.cuh", "__syncthreads();  // before those"),
        *("// before those", "cuda/spatial_pyramid_pool.cu", "block_operators"),
        "thread",
    ),
    Fault(
        *("x and y swapped", "cpu/vec/flow_warp.cpp", "args.flow_scale * du"),
        *("args.flow_scale * dv", "cpu/vec/flow_warp.cpp", "flow_warp"),
    ),
    Fault(
        *("an uninitialised tail", "cpu/vec/tile.h"),
        "for (; c < channels; ++c) {\n    coord_t sum = 0;",
        "for (; c + 1 < channels; ++c) {\n    coord_t sum = 0;",
        *("cpu/vec/flow_warp.cpp", "flow_warp"),
    ),
    Fault(
        *("the wrong stride", "cpu/vec/tile.h", "first = at.cell.row * input.row +"),
        "first = at.cell.row * size.width * input.col +",
        *("cpu/vec/flow_warp.cpp", "flow_warp"),
    ),
    Fault(
        *("a dropped bias", "cpu/flow_conv.cpp", "bias->to(sums).contiguous()"),
        *("at::zeros(bias->sizes(), bias->options().dtype(sums))", "cpu/flow_conv.cpp"),
        "flow_conv",
    ),
    Fault(
        *("gates in the wrong order", "math/lstm_gates.h"),
        "args.h_gates, order.f) + V(args.forget_bias)",
        "args.h_gates, order.g) + V(args.forget_bias)",
        *("cpu/vec/lstm_gates.cpp", "lstm_gates"),
    ),
    Fault(
        *("the mask the other way round", "cpu/vec/gate_loop.h", "from[k] ? 1 : 0"),
        *("from[k] ? 0 : 1", "cpu/vec/gru_gates.cpp", "gru_gates"),
    ),
    Fault(
        *("a branch skipped too many", "math/hff_concat.h", "if (i >= args.skipped)"),
        *("if (i > args.skipped)", "cpu/vec/hff_concat.cpp", "block_operators"),
    ),
    Fault(
        *("a wrong coefficient", "math/winograd.h", "square(i) - square(j)"),
        *("square(i) + square(j)", "cpu/vec/winograd.cpp", "winograd"),
    ),
    Fault(
        *("a tile without the image's last row", "cpu/vec/winograd.h"),
        *("holds(i, j) ? load", "holds(i + 1, j) ? load", "cpu/vec/winograd.cpp"),
        "winograd",
    ),
    Fault(
        *("two registers the wrong way round", "cpu/vec/transpose.h"),
        *("rows[r], rows[r + kSize / 2]", "rows[r + kSize / 2], rows[r]"),
        *("cpu/vec/copy_image.cpp", "cpu_layout"),
    ),
    Fault(
        *("gates in the wrong order in a tile", "cpu/vec/winograd.cpp"),
        "gate * weights.features + feature",
        "(weights.gates - 1 - gate) * weights.features + feature",
        *("cpu/vec/winograd.cpp", "winograd"),
    ),
    # Of host code, which the emulated device catches.
    Fault(
        *("a missing device guard", "cuda/flow_conv.cu"),
        *("const DeviceGuard guard(input.device());", "", *ON_DEVICES),
    ),
    Fault(
        *("a temporary on the first device", "cuda/flow_conv.cu"),
        "input.options().memory_format(at::MemoryFormat::Contiguous)",
        "input.options().memory_format(at::MemoryFormat::Contiguous)"
        ".device(c10::Device(input.device().type(), 0))",
        *ON_DEVICES,
    ),
    Fault(
        *("the default stream", "cuda/flow_conv.cu", "current_stream()", "Stream()"),
        *ON_DEVICES,
    ),
    Fault(
        *("a kernel given memory of the host", "cuda/flow_conv.cu"),
        "flows(flows.to(opmath_dtype(input)))",
        "flows(flows.to(opmath_dtype(input)).cpu())",
        *ON_DEVICES,
    ),
    Fault(
        *("a kernel given a dead temporary", "cuda/flow_conv.cu"),
        "image_view<const coord_t, index_t>(operands.flows)",
        "image_view<const coord_t, index_t>(operands.flows.clone())",
        *ON_DEVICES,
    ),
    Fault(
        *("the host reads memory of the device", "cuda/flow_conv.cu"),
        "if (count * operands.columns == 0) return;",
        "if (*static_cast<const char*>(operands.input.const_data_ptr()) == 77) return;",
        *ON_DEVICES,
    ),
    Fault(
        *("the host waits for a number", "cuda/flow_conv.cu"),
        "if (output.numel() == 0) return output;",
        "if (input.sum().item().toDouble() == 77) return output;",
        *ON_DEVICES,
    ),
    Fault(
        *("a stream that nobody waits for", "cuda/flow_conv.cu"),
        "if (output.numel() == 0) return output;",
        "const c10::impl::VirtualGuardImpl streams(input.device().type());\n"
        "const c10::Stream now = streams.getStream(input.device());\n"
        "void* event = nullptr;\n"
        "streams.record(&event, now, input.device().index(),\n"
        "               c10::EventFlag::PYTORCH_DEFAULT);\n"
        "streams.block(event, streams.getNewStream(input.device()));",
        *ON_DEVICES,
    ),
]
