"""A plugin like Ginger, which is about the host: github.com/kimchi-project/ginger. Here it has what every root has."""

from __future__ import annotations

from support.wok.asynctask import TaskModel, TasksModel
from support.wok.basemodel import BaseModel
from support.wok.root import Root


class Ginger(Root):
    """ginger.py, Ginger: made like Wok's root, it shows Wok's tasks, for which nobody is asked for a log-in."""

    def __init__(self, _options: object) -> None:
        super().__init__(BaseModel([TasksModel(), TaskModel()]), "ginger", {})
