"""All settings stand in pyproject.toml; this adds what setuptools' editable install leaves out."""

from setuptools import Distribution, setup


class DistributionWithData(Distribution):
    """`editable_wheel` asks for `has_data`, which is not there, and so installs no data files."""

    def has_data(self) -> bool:
        return bool(self.has_data_files())


setup(distclass=DistributionWithData)
