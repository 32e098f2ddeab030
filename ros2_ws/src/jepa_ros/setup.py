from setuptools import find_packages, setup

package_name = "jepa_ros"
nodes = (
    "world_model",
    "camera",
    "two_rooms",
    "first_person",
    "planner",
    "monitor",
    "pictures",
    "route",
    "update_manager",
)

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(),
    package_data={package_name: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + package_name]),
        ("share/" + package_name, ["package.xml"]),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=True,
    maintainer="jepa-edge maintainers",
    maintainer_email="jepa-edge@example.com",
    description="Nodes of jepa-edge",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            *(f"{node} = jepa_ros.start:{node}" for node in nodes),
            "profiler = jepa_ros.nodes.profiler:main",
        ]
    },
)
