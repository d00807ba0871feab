"""Changes of a study's mapping, for tests that list them as parameters."""


def remove(*path):
    """A function that deletes the key at this path of a mapping."""

    def change(content):
        for part in path[:-1]:
            content = content[part]
        del content[path[-1]]

    return change


def put(*path_and_value):
    """A function that sets the key at this path of a mapping to the last argument."""
    *path, key, value = path_and_value

    def change(content):
        for part in path:
            content = content[part]
        content[key] = value

    return change
