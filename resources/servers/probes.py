"""Questions to servers, each with a deadline."""

from resources.servers.ports import LOOPBACK


def grpc_serves(port: int, service: str, timeout_s: float) -> bool:
    """Return whether a gRPC server on loopback says in time, by the standard health service, that it serves.

    Args:
        port: its port.
        service: name of the service asked for; empty: the server as a whole.
        timeout_s: how long an answer may take.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

    # The environment's proxy is not for loopback, and a channel of an earlier, dead server is not to be shared.
    options = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
    with grpc.insecure_channel(f"{LOOPBACK}:{port}", options=options) as channel:
        try:
            question = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(question, timeout=timeout_s)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
