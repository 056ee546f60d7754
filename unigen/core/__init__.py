"""Facts and maths: what is placed where, who sees whom, clocks and tokens. No models and no configuration."""
