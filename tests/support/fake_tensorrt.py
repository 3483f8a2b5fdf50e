"""TensorRT's Python bindings in host memory: an engine is its ONNX, which ONNX Runtime runs at the given addresses.

``make_module(version)`` has what that version has and nothing more; ``enqueue`` stands for the stream.
"""

import ctypes
import json
from types import SimpleNamespace

import numpy as np

MAGIC = b"FAKE"
SETTINGS = ("flags", "profile")


class Members:
    """An enumeration with just the given members, as hasattr sees the bindings."""

    def __init__(self, *names):
        for value, name in enumerate(names):
            setattr(self, name, value)


def make_module(version="10.3.0", *, enqueue=lambda stream, work: work(), memory=True, wrong=0.0):
    """The module; ``memory=False`` lacks memory for a context, ``wrong`` is added to the first output."""
    major = int(version.split(".")[0])
    log = {"contexts": 0, "runs": 0, "shapes": []}

    class ILogger:
        ERROR, INTERNAL_ERROR, WARNING = 1, 0, 2

        def __init__(self):
            pass

    class IProfiler:
        def __init__(self):
            pass

    class Builder:
        def __init__(self, logger):
            self.logger = logger

        def create_network(self, flags=0):
            return Network(flags)

        def create_builder_config(self):
            return Config()

        def create_optimization_profile(self):
            shapes = {}
            return SimpleNamespace(shapes=shapes, set_shape=lambda name, *each: shapes.update({name: each}))

        def build_serialized_network(self, network, config):
            half = "FP16" if config.half or b"kd3d.precision" in network.onnx else "FP32"
            header = {"version": version, "half": half, "profile": config.profile}
            return MAGIC + json.dumps(header).encode() + b"\n" + network.onnx

    class Network:
        def __init__(self, flags):
            self.flags, self.onnx = flags, b""

        @property
        def num_inputs(self):
            return len(self._inputs())

        def get_input(self, index):
            item = self._inputs()[index]
            return SimpleNamespace(name=item.name, shape=shape_of(item))

        def _inputs(self):
            return session(self.onnx).get_inputs()

    class Config:
        def __init__(self):
            self.profiling_verbosity, self.half, self.profile = None, False, {}

        def set_memory_pool_limit(self, pool, size):
            pass

        def set_flag(self, flag):
            self.half = self.half or flag == getattr(module.BuilderFlag, "FP16", None)

        def clear_flag(self, flag):
            pass

        def add_optimization_profile(self, profile):
            self.profile = profile.shapes
            return 0

    class OnnxParser:
        num_errors = 0

        def __init__(self, network, logger):
            self.network = network

        def parse(self, data):
            self.network.onnx = data
            return True

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger):
            self.logger = logger

        def deserialize_cuda_engine(self, data):
            if not data.startswith(MAGIC):
                self.logger.log(ILogger.ERROR, "magicTag does not match")
                return None
            header, onnx = data[len(MAGIC) :].split(b"\n", 1)
            return Engine(json.loads(header), onnx, self.logger)

    class Engine:
        def __init__(self, header, onnx, logger):
            self.header, self.session, self.logger = header, session(onnx), logger
            self.tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
            self.num_io_tensors = len(self.tensors)

        def _find(self, name):
            return next(item for item in self.tensors if item.name == name)

        def get_tensor_name(self, index):
            return self.tensors[index].name

        def get_tensor_mode(self, name):
            mode = module.TensorIOMode
            return mode.INPUT if self._find(name) in self.session.get_inputs() else mode.OUTPUT

        def get_tensor_dtype(self, name):
            kind = self._find(name).type
            return "int32" if kind == "tensor(int64)" and major < 10 else kind

        def get_tensor_shape(self, name):
            return shape_of(self._find(name))

        def get_tensor_profile_shape(self, name, profile_index):
            assert profile_index == 0
            return self.header["profile"][name]

        def create_execution_context(self):
            if not memory:
                self.logger.log(ILogger.ERROR, "[resizingAllocator.cpp] Cuda Error: out of memory")
                return None
            log["contexts"] += 1
            return Context(self)

        def create_engine_inspector(self):
            kind = {"Format/Datatype": f"Row {self.header['half']}"}
            layers = [{"Name": "c", "LayerType": "Convolution", "Inputs": [kind], "Outputs": [kind]}]
            return SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": layers}))

    class Context:
        def __init__(self, engine):
            self.engine, self.shapes, self.places, self.state, self.profiler = engine, {}, {}, 0, None

        def set_input_shape(self, name, shape):
            profile = self.engine.header["profile"].get(name)
            fixed = shape_of(self.engine._find(name))
            low, high = (profile[0], profile[2]) if profile else (fixed, fixed)
            if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
                self.engine.logger.log(ILogger.ERROR, "profile does not hold the shape")
                return False
            self.shapes[name], self.state = tuple(shape), self.state + 1
            return True

        def get_tensor_shape(self, name):
            return self.shapes.get(name) or shape_of(self.engine._find(name))

        def set_tensor_address(self, name, address):
            assert isinstance(address, int)
            self.places[name], self.state = address, self.state + 1
            return True

        def execute_async_v3(self, stream_handle):
            if set(self.places) != {item.name for item in self.engine.tensors}:
                return False
            state = self.state
            enqueue(stream_handle, lambda: self._run(state))
            return True

        def _run(self, state):
            log["runs"] += 1
            if self.profiler is not None:
                for layer, milliseconds in (("conv1", 0.75), ("conv2", 0.25)):
                    self.profiler.report_layer_time(layer, milliseconds)
            log["shapes"].append(self.shapes.get("features", (1,))[0])
            run = self.engine.session
            feeds = {item.name: self._memory(item.name).astype(kind_of(item)) for item in run.get_inputs()}
            for index, (item, value) in enumerate(zip(run.get_outputs(), run.run(None, feeds), strict=True)):
                broken = np.nan if state != self.state else wrong if not index else 0.0
                self._memory(item.name)[...] = value + np.float32(broken)  # a context changed since its capture

        def _memory(self, name):
            shape, kind = self.get_tensor_shape(name), module.nptype(self.engine.get_tensor_dtype(name))
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            return (
                np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.places[name])).view(kind).reshape(shape)
            )

    def nptype(kind):
        if kind == "tensor(bfloat16)":
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return np.dtype(
            kind.removeprefix("tensor(").removesuffix(")").replace("float", "float32").replace("float3216", "float16")
        ).type

    flags = ["TF32", "VERSION_COMPATIBLE"] + (["FP16", "INT8"] if major < 11 else [])
    module = SimpleNamespace(
        __version__=version,
        log=log,
        nptype=nptype,
        ILogger=ILogger,
        IProfiler=IProfiler,
        Builder=Builder,
        OnnxParser=OnnxParser,
        Runtime=Runtime,
        TensorIOMode=Members("NONE", "INPUT", "OUTPUT"),
        BuilderFlag=Members(*flags),
        NetworkDefinitionCreationFlag=Members("EXPLICIT_BATCH", *(["STRONGLY_TYPED"] if major >= 10 else [])),
        HardwareCompatibilityLevel=Members("NONE", "AMPERE_PLUS"),
        MemoryPoolType=Members("WORKSPACE"),
        ProfilingVerbosity=Members("DETAILED"),
        LayerInformationFormat=Members("JSON"),
    )
    return module


def session(onnx):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def shape_of(item):
    return tuple(side if isinstance(side, int) else -1 for side in item.shape)


def kind_of(item):
    return {"tensor(float)": np.float32}.get(item.type) or np.dtype(item.type[7:-1])
