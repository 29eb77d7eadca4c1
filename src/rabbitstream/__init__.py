"""A small driver for RabbitMQ streams: it moves bytes, and knows neither topics nor what is in a message.

`link` is a connection and the commands on it, `protocol` how these look in a frame, `subscription` a stream that is
being read, `chunks` what the broker delivers, `amqp` the codec of a message's sections, `reopened` what opens again.

Sources: `deps/rabbitmq_stream/docs/PROTOCOL.adoc` in rabbitmq-server for the protocol, the top of `osiris_log.erl` in
osiris for chunks, and OASIS AMQP 1.0, part 1 (types) and part 3 (messaging, section 3.2), for messages.
"""
