"""Control and observation of live sessions from outside: an HTTP and WebSocket server beside the engine."""
