"""The ablation report: it reads run folders and writes tables, curves and sample grids in several formats."""
