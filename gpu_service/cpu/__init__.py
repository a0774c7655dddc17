"""Engines that need no accelerator: CTranslate2 and ONNX Runtime on the CPU."""
