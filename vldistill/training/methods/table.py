"""The methods: one table, by the kind of a recipe's `objective`. Asking for one imports that one alone."""

METHODS = {
    "labels": ("recipe.schema.objectives:LabelsObjective", "training.methods.labels:Labels"),
    "dide": ("recipe.schema.objectives:DideObjective", "training.methods.dide:Dide"),
    "advl": ("recipe.schema.objectives:AdvlObjective", "training.methods.advl:AdvlMethod"),
    "pretrain": ("recipe.schema.objectives:PretrainObjective", "training.methods.pretrain:Pretrain"),
    "retrieval": ("recipe.schema.objectives:RetrievalObjective", "training.methods.retrieval:Retrieval"),
}
"""Of each kind its section of a recipe, which imports no torch, and its method; below `vldistill`. A kind that is not here is an
error, and never trains on labels instead."""
