"""An engine that computes nothing: canned answers in vLLM's shapes, over HTTP on a Unix socket.

Run as `python null_engine.py SOCKET`. A request says with `max_completion_tokens` how many events
its stream has; each is written by itself, as vLLM writes one a token.
"""

import asyncio
import json
import sys

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n"


def event(choices: list, usage: dict | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1795608000,
        "model": "qwen3-demo",
        "choices": choices,
        "usage": usage,
    }
    return framed(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def delta(text: str, reason: str | None = None) -> list:
    said = {"content": text, "reasoning": None}
    return [{"index": 0, "delta": said, "logprobs": None, "finish_reason": reason}]


def usage(tokens: int) -> dict:
    return {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}


def whole(tokens: int) -> bytes:
    message = {"role": "assistant", "content": "word " * tokens, "reasoning": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    answer = {"id": "chatcmpl-0", "object": "chat.completion", "created": 1795608000}
    answer |= {"model": "qwen3-demo", "choices": [choice], "usage": usage(tokens)}
    return framed(json.dumps(answer).encode())


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if head.startswith(b"get"):
            writer.write(HEAD % b"text/plain" + b"0\r\n\r\n")
            return
        size = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        request = json.loads(await reader.readexactly(size))
        tokens = request.get("max_completion_tokens", 16)
        if not request.get("stream"):
            writer.write(HEAD % b"application/json" + whole(tokens) + b"0\r\n\r\n")
            return
        writer.write(HEAD % b"text/event-stream")
        for _ in range(tokens):
            writer.write(event(delta("word ")))
            await writer.drain()
            await asyncio.sleep(request.get("pause", 0))
        writer.write(event(delta("", "length")) + event([], usage(tokens)))
        writer.write(framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main(path: str) -> None:
    server = await asyncio.start_unix_server(answer, path)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
