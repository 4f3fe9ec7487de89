"""What is read out of the CUDA kernels' machine code."""

import cuda_static
import pytest

SASS = """
		Function : _ZN4test6kernelEv
	.headerflags	@"EF_CUDA_SM90"
        /*0010*/                   FMUL R4, R2, R3 ;
        /*0020*/                   FRND.FLOOR R5, R4 ;
        {between}
        /*0040*/                   {difference} ;
"""


@pytest.mark.parametrize(
    "between, difference, found",
    [
        ("", "FADD R6, R4, -R5", set()),
        ("", "FFMA R6, R2, R3, -R5", {"test::kernel"}),
        ("", "FFMA.FTZ R5, R2, R3, -R5", {"test::kernel"}),
        ("", "@!P0 FFMA R6, R2, R3, -R5", {"test::kernel"}),
        ("", "FFMA R6, R2, R3, -R7", set()),
        ("/*0030*/ MOV R5, R8 ;", "FFMA R6, R2, R3, -R5", set()),
        ("/*0030*/ MOV R8, R5 ;", "FFMA R6, R2, R3, -R8", {"test::kernel"}),
        ("/*0030*/ FRND.F64.FLOOR R8, R6 ;", "DFMA R6, R2, R3, -R8", {"test::kernel"}),
    ],
)
def test_fractions_of_products_that_are_not_rounded(between, difference, found):
    sass = SASS.format(between=between, difference=difference)
    assert cuda_static.contracted(sass) == found


@pytest.mark.parametrize(
    "access, loads, stores",
    [
        ("LDG.E.128.CONSTANT R4, [R2]", "16", ""),
        ("LDG.E R4, [R2]", "4", ""),
        ("LD.E.U16 R4, [R2]", "2", ""),
        ("LDS.128 R4, [R2]", "", ""),
        ("STG.E.64 [R2], R4", "", "8"),
        ("REDG.E.ADD.F32.FTZ.RN.STRONG.GPU [R2], R4", "", "4"),
        ("REDG.E.ADD.F32x4.FTZ.RN.STRONG.GPU [R2], R4", "", "16"),
        ("REDG.E.ADD.F32x2.FTZ.RN.STRONG.GPU [R2], R4", "", "8"),
        ("REDG.E.ADD.F16x2.RN.STRONG.GPU [R2], R4", "", "4"),
        ("RED.E.ADD.F64.RN.STRONG.GPU [R2], R4", "", "8"),
    ],
)
def test_bytes_of_accesses(access, loads, stores):
    sass = f"arch = sm_90\n\t\tFunction : kernel\n        /*0010*/  {access} ;\n"
    assert cuda_static.read_code(sass) == {("90", "kernel"): (loads, stores, "")}
