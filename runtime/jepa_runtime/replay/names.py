"""Names that stand for topics and action sequences in the options of ``replay`` and ``whatif``."""

# Stands for no topic.
NONE = "none"
FAN, EXECUTED = "fan", "executed"
FORMS = (
    f"{EXECUTED}, {FAN}, 0.5,0;0.5,0 (steps between semicolons), or a file: .npy or .json of [K, H, A] or "
    "[H, A], .csv with one line per step"
)
