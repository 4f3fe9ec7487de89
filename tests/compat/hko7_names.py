"""The names of parameters in HKO-7's MXNet code, as they are spelled there."""


def hko7_name(name):
    """Of a parameter of ours."""
    ends = {"down.0.0": "econv1", "head.0": "fdeconv1"}
    ends |= {"head.2": "conv_final", "head.4": "out"}
    place, kind = name.rsplit(".", 1)
    if place in ends:
        return f"{ends[place]}_{kind}"
    parts = place.split(".")
    level = int(parts[1])
    if parts[0] in ("down", "up"):
        between = {"down": f"edown{level}_conv", "up": f"fup{level + 1}_deconv"}
        return f"{between[parts[0]]}_{kind}"
    conv = {"ret": "h2h", "flows_conv": "f_out"}.get(parts[-1], parts[-1])
    return f"{parts[0][0]}brnn{level + 1}_0_{conv}_{kind}"


def hko7_names(traj_gru):
    """All names, as the original's code spells them."""
    biased = ["econv1", "edown1_conv", "edown2_conv", "conv_final", "out"]
    of_state = ["h2h", "h2f_conv1", "f_out"] if traj_gru else ["h2h"]
    of_inputs = ["i2h", "i2f_conv1"] if traj_gru else ["i2h"]
    layers = ["ebrnn1", "ebrnn2", "ebrnn3", "fbrnn1", "fbrnn2", "fbrnn3"]
    biased += [f"{layer}_0_{conv}" for layer in layers for conv in of_state]
    biased += [f"{layer}_0_{conv}" for layer in layers[:5] for conv in of_inputs]
    names = {f"{conv}_{kind}" for conv in biased for kind in ("weight", "bias")}
    return names | {"fup2_deconv_weight", "fup1_deconv_weight", "fdeconv1_weight"}
