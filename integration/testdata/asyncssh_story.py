"""Steps that a program using AsyncSSH would take: STEP LOGIN NODE PROFILE WAY ECHO DIR."""
import asyncio
import os
import sys

import asyncssh

step, login, node, profile, way, echo, folder = sys.argv[1:8]
keys = [(profile + "/ssh_key", profile + "/ssh_key-cert.pub")]
trust = dict(known_hosts=profile + "/known_hosts", config=[])


async def exchange(reader, writer):
    sent = os.urandom(1 << 20)
    writer.write(sent)
    assert await reader.readexactly(len(sent)) == sent
    writer.close()


async def run(c):
    r = await c.run("id -un; echo aside >&2; exit 3")
    assert (r.stdout.strip(), r.stderr, r.exit_status) == (login, "aside\n", 3), r


async def shell(c):
    r = await c.run(input="stty size; exit\n", term_type="xterm", term_size=(101, 33))
    assert "33 101" in r.stdout, r.stdout


async def sftp(c):
    data = os.urandom(2 << 20)
    with open(folder + "/from", "wb") as f:
        f.write(data)
    async with c.start_sftp_client() as s:
        await s.mkdir("asyncssh")
        await s.put(folder + "/from", "asyncssh/a")
        await s.posix_rename("asyncssh/a", "asyncssh/b")
        await s.symlink("b", "asyncssh/soft")
        assert await s.readlink("asyncssh/soft") == "b"
        await s.get("asyncssh/b", folder + "/back")
        with open(folder + "/back", "rb") as f:
            assert f.read() == data
        await s.rmtree("asyncssh")


async def scp(c):
    data = os.urandom(1 << 20)
    with open(folder + "/from", "wb") as f:
        f.write(data)
    await asyncssh.scp(folder + "/from", (c, "asyncssh-scp"))
    await asyncssh.scp((c, "asyncssh-scp"), folder + "/back")
    with open(folder + "/back", "rb") as f:
        assert f.read() == data


async def many(c):
    outs = await asyncio.gather(*(c.run(f"echo {i}") for i in range(30)))
    assert [o.stdout.strip() for o in outs] == [str(i) for i in range(30)]


async def local(c):
    host, port = echo.split(":")
    listener = await c.forward_local_port("127.0.0.1", 0, host, int(port))
    await exchange(*await asyncio.open_connection("127.0.0.1", listener.get_port()))


async def remote(c):
    host, port = echo.split(":")
    listener = await c.forward_remote_port("127.0.0.1", 0, host, int(port))
    await exchange(*await asyncio.open_connection("127.0.0.1", listener.get_port()))


async def dynamic(c):
    listener = await c.forward_socks("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.get_port())
    host, port = echo.split(":")
    writer.write(b"\x05\x01\x00")  # RFC 1928
    assert await reader.readexactly(2) == b"\x05\x00"
    writer.write(b"\x05\x01\x00\x01" + bytes(map(int, host.split("."))) + int(port).to_bytes(2, "big"))
    assert (await reader.readexactly(10))[1] == 0
    await exchange(reader, writer)


async def sockets(c):
    reader, writer = await c.open_unix_connection(folder + "/server")
    await exchange(reader, writer)
    await c.forward_remote_path(folder + "/remote", folder + "/server")
    await exchange(*await asyncio.open_unix_connection(folder + "/remote"))


async def main():
    if step == "jump":
        host, port = way.split(":")
        async with asyncssh.connect(host, int(port), username="anyone", client_keys=keys, **trust) as front:
            async with asyncssh.connect(node, username=login, client_keys=keys, tunnel=front, **trust) as c:
                await run(c)
        return
    if step == "untrusted":
        trust["known_hosts"] = ([], [], [])
    try:
        async with asyncssh.connect(node, username=login, client_keys=keys, proxy_command=way, **trust) as c:
            await globals()[step](c)
    except asyncssh.HostKeyNotVerifiable:
        if step != "untrusted":
            raise


asyncio.run(asyncio.wait_for(main(), 60))
print("done")
