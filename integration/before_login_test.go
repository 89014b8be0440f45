//go:build integration

package integration

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// skipAuthScript is a client that does a correct key exchange and then sends a message that is not allowed
// before authentication. It uses Paramiko's transport, which sends any message. It prints "SERVED" when a
// channel opens, and "login" when the server has accepted an authentication.
const skipAuthScript = `
import socket, sys, paramiko
from paramiko.message import Message
host, port, what, key, cert, user, command = sys.argv[1:8]
sock = socket.create_connection((host, int(port)), 10) if host else paramiko.ProxyCommand(command)
t = paramiko.Transport(sock)
t.banner_timeout = t.auth_timeout = 15
t.start_client(timeout=15)
def message(kind, *strings):
    m = Message(); m.add_byte(bytes([kind]))
    for s in strings: m.add_string(s)
    return m
def session():
    try:
        ch = t.open_session(timeout=3)
        print("SERVED", flush=True)
        ch.exec_command("echo in"); print(ch.recv(100), flush=True)
    except Exception as e: print("refused:", e, flush=True)
if what == "channel": session()
if what == "success":
    t._send_message(message(52)); session()
if what == "global":
    m = message(80, "tcpip-forward"); m.add_boolean(True); m.add_string("127.0.0.1"); m.add_int(0)
    t._send_message(m); session()
if what == "query":
    # asks whether the certificate would be accepted, and goes on as if it had signed
    k = paramiko.Ed25519Key.from_private_key_file(key); k.load_certificate(cert)
    t._send_message(message(5, "ssh-userauth"))
    m = message(50, user, "ssh-connection", "publickey"); m.add_boolean(False)
    m.add_string("ssh-ed25519-cert-v01@openssh.com"); m.add_string(k.public_blob.key_blob); t._send_message(m)
    session()
if what == "replies":
    k = paramiko.Ed25519Key.from_private_key_file(key); k.load_certificate(cert)
    t.auth_publickey(user, k); print("login", flush=True)
    for _ in range(5000): t._send_message(message(81)); t._send_message(message(82))
    for i in range(100):
        m = Message(); m.add_byte(bytes([99])); m.add_int(i); t._send_message(m)
    session()
print("active", t.is_active(), flush=True)
t.close()
`

// Between the key exchange and a login, neither the proxy's SSH server nor the node serves anything but
// authentication. Replies that were not asked for, after a login, do not keep the server from serving others.
func TestNothingIsServedBeforeALogin(t *testing.T) {
	t.Parallel()
	d := harness.StartDemo(t)
	c := harness.NewClient(t)
	c.Login(d, d.Alice())
	host, port, err := net.SplitHostPort(d.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	dir := c.ProfileDir()
	script := harness.WriteFile(t, t.TempDir(), "skipauth.py", skipAuthScript)
	node := fmt.Sprintf("env TSH_HOME=%s %s proxy ssh %s", filepath.Join(c.Home, ".tsh"), c.Path(), d.Node)
	t.Run("servers", func(t *testing.T) { // groups the parallel subtests, which mostly wait
		for _, server := range []struct{ name, host, command string }{
			{"the proxy's SSH server", host, ""},
			{"the node", "", node},
		} {
			run := func(t *testing.T, what string) harness.Result {
				key, cert := filepath.Join(dir, "ssh_key"), filepath.Join(dir, "ssh_key-cert.pub")
				args := []string{script, server.host, port, what, key, cert, d.Login, server.command}
				return harness.Run(t, c.Env, nil, python, args...)
			}
			for _, what := range []string{"channel", "success", "global", "query"} {
				t.Run(server.name+", "+what, func(t *testing.T) {
					t.Parallel()
					r := run(t, what)
					if strings.Contains(r.Stdout, "SERVED") || !strings.Contains(r.Stdout, "refused") {
						t.Errorf("got %+v, want nothing served", r)
					}
				})
			}
			t.Run(server.name+", replies", func(t *testing.T) {
				t.Parallel()
				if r := run(t, "replies"); !strings.Contains(r.Stdout, "login") {
					t.Errorf("got %+v, want a login before the replies", r)
				}
			})
		}
	})
	if out := c.Tsh("ssh", d.Node, "echo others").OK(t); strings.TrimSpace(out) != "others" {
		t.Errorf("got %q after the replies, want others served", out)
	}
}
