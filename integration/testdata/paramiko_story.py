"""Steps that a program using Paramiko would take: STEP LOGIN NODE PROFILE KNOWN_HOSTS WAY ECHO DIR."""
import os
import socket
import sys
import threading

import paramiko

step, login, node, profile, known, way, echo, folder = sys.argv[1:9]
key = paramiko.Ed25519Key.from_private_key_file(profile + "/ssh_key")
if step != "bare key":
    key.load_certificate(profile + "/ssh_key-cert.pub")


def connect(host, sock, **more):
    c = paramiko.SSHClient()
    c.load_host_keys(known)
    c.set_missing_host_key_policy(paramiko.RejectPolicy())
    c.connect(host, username=login, sock=sock, allow_agent=False, look_for_keys=False, **more)
    return c


def exchange(conn):
    sent = os.urandom(1 << 20)
    writer = threading.Thread(target=conn.sendall, args=(sent,))
    writer.start()
    got = b""
    while len(got) < len(sent):
        part = conn.recv(65536)
        assert part, f"{len(got)} bytes back"
        got += part
    writer.join()
    assert got == sent


def run(c):
    _, out, err = c.exec_command("id -un; echo aside >&2; exit 3")
    assert out.read().decode().strip() == login
    assert err.read().decode() == "aside\n"
    assert out.channel.recv_exit_status() == 3


def shell(c):
    ch = c.invoke_shell(width=101, height=33)
    ch.settimeout(60)
    ch.send(b"stty size; exit\n")
    text = b""
    while part := ch.recv(4096):
        text += part
    assert b"33 101" in text, text


def sftp(c):
    with c.open_sftp() as s:
        data = os.urandom(2 << 20)
        with open(folder + "/from", "wb") as f:
            f.write(data)
        s.mkdir("paramiko")
        s.put(folder + "/from", "paramiko/a")  # compares the sizes afterwards
        s.posix_rename("paramiko/a", "paramiko/b")
        s.chmod("paramiko/b", 0o640)
        assert s.stat("paramiko/b").st_mode & 0o777 == 0o640
        assert s.listdir("paramiko") == ["b"]
        s.get("paramiko/b", folder + "/back")
        with open(folder + "/back", "rb") as f:
            assert f.read() == data
        s.remove("paramiko/b")
        s.rmdir("paramiko")


def local(c):
    host, port = echo.split(":")
    exchange(c.get_transport().open_channel("direct-tcpip", (host, int(port)), ("127.0.0.1", 1)))


def remote(c):
    t = c.get_transport()
    port = t.request_port_forward("127.0.0.1", 0)

    def back():
        ch = t.accept(60)
        while data := ch.recv(65536):
            ch.sendall(data)

    threading.Thread(target=back, daemon=True).start()
    exchange(socket.create_connection(("127.0.0.1", port)))


def jump():
    host, port = way.split(":")
    front = paramiko.SSHClient()
    front.load_host_keys(known)
    front.connect(host, int(port), username="anyone", pkey=key, allow_agent=False, look_for_keys=False)
    return front.get_transport().open_channel("direct-tcpip", (node, 22), ("127.0.0.1", 1))


def refused(sock, **more):
    try:
        connect(node, sock, **more)
        sys.exit("got in")
    except paramiko.AuthenticationException as e:
        print("refused:", e)


if step == "jump":
    with connect(node, jump(), pkey=key) as c:
        run(c)
elif step == "bare key":
    refused(paramiko.ProxyCommand(way), pkey=key)
elif step == "password":
    refused(jump(), password="secret")
else:
    with connect(node, paramiko.ProxyCommand(way), pkey=key) as c:
        {"run": run, "shell": shell, "sftp": sftp, "local": local, "remote": remote}[step](c)
print("done")
sys.stdout.flush()
os._exit(0)  # Paramiko's own threads do not always end
