//go:build integration

package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/proxy"

	"github.com/threshold-access/threshold/integration/harness"
)

// opensshStory tries OpenSSH's client on both routes: with the configuration that tsh prints, and with a jump
// through the proxy, which needs no tsh.
func opensshStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	routes := []struct {
		name   string
		via    harness.Feature
		args   []string
		target string
	}{
		{"by tsh config", harness.ByCommand, o.options(), o.target()},
		{"by ssh -J", harness.ByJump, o.options("-J", "anyone@"+o.Proxy), o.account.Username + "@anvil"},
	}
	for _, route := range routes {
		const command = ": runs a command with separate output, errors and exit status"
		e.Supports(t, route.name+command, func(t *testing.T) {
			r := o.run(t, "ssh", append(route.args, route.target, "id -un; echo oops >&2; exit 7")...)
			if strings.TrimSpace(r.Stdout) != o.account.Username || strings.TrimSpace(r.Stderr) != "oops" ||
				r.Code != 7 {
				t.Errorf("got %+v, want the account, oops and 7", r)
			}
		}, harness.Certificate, harness.Exec, route.via)
		e.Supports(t, route.name+": a shell on a terminal that changes its size", func(t *testing.T) {
			usesATerminal(t, o.start("ssh", append(route.args, "-tt", route.target)...))
		}, harness.Shell, route.via)
		e.Supports(t, route.name+": forwards with -L, -R, -D and -W", func(t *testing.T) {
			forwards(t, o, append(route.args, route.target))
		}, harness.Local, harness.Remote, harness.Dynamic, route.via)
	}
	const rekeys = "transfers 8 MB of binary input and output, with new keys every megabyte"
	e.Supports(t, rekeys, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "random")
		data := writeRandomFile(t, file, 8<<20)
		in, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		args := o.options("-o", "RekeyLimit=1M", "-C", o.target(), "cat")
		if r := harness.Run(t, o.client.Env, in, "ssh", args...); r.OK(t) != string(data) {
			t.Errorf("got %d bytes, want the %d bytes sent", len(r.Stdout), len(data))
		}
	})
	e.Supports(t, "reports the signal that ended a command", func(t *testing.T) {
		r := o.run(t, "ssh", o.options("-v", o.target(), "kill -TERM $$")...)
		if r.Code != 255 || !strings.Contains(r.Stderr, "exit-signal") {
			t.Errorf("got %d and %q, want 255 and the signal", r.Code, r.Stderr)
		}
	})
	scp := func(t *testing.T) { copiesBySCP(t, o) }
	e.Supports(t, "scp, also scp -O, files and folders", scp, harness.SCP)
	const sftpCommands = "sftp: list, df, mkdir, put, rename, ln, symlink, chmod, get, resume both ways, rm"
	e.Supports(t, sftpCommands, func(t *testing.T) { usesSFTP(t, o) }, harness.SFTP)
	share := func(t *testing.T) { sharesAConnection(t, o) }
	e.Supports(t, "ControlMaster: 50 sessions at once on one connection", share, harness.Shared)
	e.Supports(t, "forwards Unix sockets both ways", func(t *testing.T) {
		forwardsSockets(t, func(flags ...string) *exec.Cmd {
			return o.start("ssh", o.options(append(flags, o.target())...)...)
		})
	}, harness.Sockets)
	e.Supports(t, "forwards its agent with -A", func(t *testing.T) {
		forwardsItsAgent(t, o, func(flag, command string) []string {
			return append([]string{"ssh"}, o.options(flag, o.target(), command)...)
		})
	}, harness.Agent)
	e.Supports(t, "sends LANG and LC_*; other variables are ignored silently", func(t *testing.T) {
		cmd := o.options("-o", "SetEnv=LC_TEST=kept LD_PRELOAD=x", o.target(), "echo $LC_TEST,$LD_PRELOAD")
		if out := o.run(t, "ssh", cmd...).OK(t); strings.TrimSpace(out) != "kept," {
			t.Errorf("got %q, want only LC_TEST", out)
		}
	})
	e.Supports(t, "-X is refused, and the session goes on without X11", func(t *testing.T) {
		args := o.options("-v", "-X", "-o", "ForwardX11Trusted=yes", o.target(), "echo here")
		if r := o.run(t, "ssh", args...); strings.TrimSpace(r.OK(t)) != "here" {
			t.Errorf("got %+v, want the command run", r)
		}
	})
	algorithms(t, o, e)
	keyscan(t, o, e)
	manyClients(t, o, e)
	e.AddNote(
		"OpenSSH's client decides which cipher is used. Up to 10.0 it prefers ChaCha20 to AES-GCM,\n" +
			"whatever the server prefers; therefore `tsh config` prints a line about ciphers. With ssh\n" +
			"-J, `-c aes128-gcm@openssh.com` does the same. The node offers the post-quantum key\n" +
			"exchange mlkem768x25519-sha256, which OpenSSH supports from 9.9 on. Older releases support\n" +
			"sntrup761x25519, which the node does not offer; they use curve25519.",
	)
	e.AddNote(
		"Nodes do not listen on any port, so `ssh-keyscan` cannot ask them. It is not needed: every\n" +
			"host key has a certificate, and `@cert-authority` in the known hosts that tsh writes\n" +
			"covers it.",
	)
}

// forwards tries -L, -R, -D and -W for TCP. args are the options and the target of ssh.
func forwards(t *testing.T, o *clientFixture, args []string) {
	t.Helper()
	server := startEcho(t, "tcp", "127.0.0.1:0")
	local, remote := harness.FreeAddr(t, "127.0.0.1"), harness.FreeAddr(t, "127.0.0.1")
	socks := harness.FreeAddr(t, "127.0.0.1")
	flags := []string{"-N", "-o", "ExitOnForwardFailure=yes"}
	flags = append(flags, "-L", local+":"+server, "-R", remote+":"+server, "-D", socks)
	p := startUntilEnd(t, o.start("ssh", append(flags, args...)...))
	t.Run("L", func(t *testing.T) { checkClientEcho(t, dialer("tcp", local)) })
	t.Run("R", func(t *testing.T) { checkClientEcho(t, dialer("tcp", remote)) })
	t.Run("D", func(t *testing.T) { checkClientEcho(t, bySOCKS(socks, server)) })
	t.Run("a port without a listener is refused", func(t *testing.T) {
		if conn, err := bySOCKS(socks, harness.FreeAddr(t, "127.0.0.1"))(); err == nil {
			conn.Close()
			t.Error("got a connection to a port without a listener, want an error")
		}
	})
	p.Kill()
	t.Run("the listener on the node ends with the session", func(t *testing.T) {
		for l, err := net.Listen("tcp", remote); ; l, err = net.Listen("tcp", remote) {
			if err == nil {
				l.Close()
				return
			}
			if t.Context().Err() != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("W", func(t *testing.T) {
		args := append([]string{"-W", server}, args...)
		r := harness.Run(t, o.client.Env, strings.NewReader("through"), "ssh", args...)
		if r.OK(t) != "through" {
			t.Errorf("got %q, want it echoed", r.Stdout)
		}
	})
}

// bySOCKS returns a function that dials the address through a client's -D.
func bySOCKS(socks, address string) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		d, err := proxy.SOCKS5("tcp", socks, nil, proxy.Direct)
		if err != nil {
			return nil, err
		}
		return d.Dial("tcp", address)
	}
}

// copiesBySCP copies a folder both ways, by the sftp protocol and with -O by the old one.
func copiesBySCP(t *testing.T, o *clientFixture) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree", "deep")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	data := writeRandomFile(t, filepath.Join(tree, "with a space"), 3<<20)
	for name, protocol := range map[string][]string{"sftp": nil, "O": {"-O"}} {
		args := append(o.options("-q", "-r", "-p"), protocol...)
		o.run(t, "scp", append(args, filepath.Join(dir, "tree"), o.target()+":scp-"+name)...).OK(t)
		o.run(t, "scp", append(args, o.target()+":scp-"+name, filepath.Join(dir, "back-"+name))...).OK(t)
		wantFile(t, filepath.Join(dir, "back-"+name, "deep", "with a space"), data)
	}
	r := o.run(t, "scp", o.options(o.target()+":missing", dir)...)
	if r.Code == 0 || !strings.Contains(r.Stderr, "No such file") {
		t.Errorf("got %+v, want the missing file reported", r)
	}
}

// usesSFTP runs one command of each kind of OpenSSH's sftp.
func usesSFTP(t *testing.T, o *clientFixture) {
	dir := t.TempDir()
	from, back := filepath.Join(dir, "from"), filepath.Join(dir, "back")
	data := writeRandomFile(t, from, 2<<20)
	if err := os.WriteFile(back, data[:1<<20], 0o600); err != nil { // so that reget has the second half to do
		t.Fatal(err)
	}
	if err := os.WriteFile(o.home("half"), data[:1<<20], 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(o.home("half"), 0o666); err != nil {
		t.Fatal(err)
	}
	batch := strings.NewReader(strings.Join([]string{
		"pwd",
		"df",
		"mkdir sf",
		"put " + from + " sf/a",
		"rename sf/a sf/b",
		"ln sf/b sf/hard",
		"symlink b sf/soft",
		"chmod 640 sf/b",
		"ls -l sf",
		"get sf/soft " + dir + "/soft",
		"reget sf/b " + back,
		"reput " + from + " half",
		"rm sf/hard",
		"bye",
		"",
	}, "\n"))
	r := harness.Run(t, o.client.Env, batch, "sftp", o.options("-b", "-", o.target())...)
	if out := r.OK(t); !strings.Contains(out, o.account.HomeDir) || !strings.Contains(out, "-rw-r-----") {
		t.Errorf("got %q, want the home and the file's mode", out)
	}
	wantFile(t, filepath.Join(dir, "soft"), data)
	wantFile(t, back, data)
	wantFile(t, o.home("half"), data)
	if link, err := os.Readlink(o.home("sf/soft")); err != nil || link != "b" {
		t.Errorf("got a link to %q, %v, want a link to b", link, err)
	}
}

// sharesAConnection opens many sessions on the connection of a ControlMaster. None ends before all are open.
func sharesAConnection(t *testing.T, o *clientFixture) {
	control := filepath.Join(sharedDir(t), "control")
	master := startUntilEnd(t, o.start("ssh", o.options("-v", "-N", "-M", "-S", control, o.target())...))
	master.WaitFor("Entering interactive session")
	const many = 50
	outs := make([]harness.Result, many)
	marks := o.home("mark") // each session creates a file with this prefix, and waits until there are all
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			const format = "touch %s.%d; while [ $(ls %s.* | wc -l) -lt %d ]; do sleep 0.1; done; echo %d"
			script := fmt.Sprintf(format, marks, i, marks, many, i)
			outs[i] = o.run(t, "ssh", "-S", control, "-F", "none", "x", script)
		})
	}
	all.Wait()
	for i, r := range outs {
		if strings.TrimSpace(r.OK(t)) != fmt.Sprint(i) {
			t.Errorf("got %q from session %d", r.Stdout, i)
		}
	}
	o.run(t, "ssh", "-S", control, "-O", "exit", "x").OK(t)
	_ = master.Wait() // its exit status is 0 or 255, depending on the release of OpenSSH
}

// forwardsSockets tries -L and -R with Unix sockets. client returns the client with the given flags.
func forwardsSockets(t *testing.T, client func(flags ...string) *exec.Cmd) {
	dir := sharedDir(t)
	server := startEcho(t, "unix", filepath.Join(dir, "server"))
	local, remote := filepath.Join(dir, "local"), filepath.Join(dir, "remote")
	cmd := client("-N", "-o", "ExitOnForwardFailure=yes", "-L", local+":"+server, "-R", remote+":"+server)
	startUntilEnd(t, cmd)
	t.Run("L", func(t *testing.T) { checkClientEcho(t, dialer("unix", local)) })
	t.Run("R", func(t *testing.T) { checkClientEcho(t, dialer("unix", remote)) })
}

// agentKeyComment is the comment of the key in a forwarded agent.
const agentKeyComment = "key of the forwarded agent"

// forwardsItsAgent tries -A and -a. client returns the words that run a command on the node with the flag.
func forwardsItsAgent(t *testing.T, o *clientFixture, client func(flag, command string) []string) {
	dir := t.TempDir()
	socket, key := filepath.Join(dir, "agent"), filepath.Join(dir, "key")
	harness.Start(t, nil, "ssh-agent", "-D", "-a", socket)
	o.run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", agentKeyComment, "-f", key).OK(t)
	dialUntilUp(t, dialer("unix", socket)).Close()
	env := append(o.client.Env, "SSH_AUTH_SOCK="+socket)
	harness.Run(t, env, nil, "ssh-add", "-q", key).OK(t)
	words := client("-A", "ssh-add -l")
	out := harness.Run(t, env, nil, words[0], words[1:]...).OK(t)
	if !strings.Contains(out, agentKeyComment) {
		t.Errorf("got %q, want the agent's key listed on the node", out)
	}
	words = client("-a", "ssh-add -l")
	if r := harness.Run(t, env, nil, words[0], words[1:]...); r.Code == 0 {
		t.Errorf("got %+v, want no agent without -A", r)
	}
}

// algorithms checks which algorithms are agreed on with this release of OpenSSH, and that old ones are
// refused.
func algorithms(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	const prefersAES = "tsh config prefers AES-GCM to ChaCha20 on processors with AES instructions"
	e.Supports(t, prefersAES, func(t *testing.T) {
		config, err := os.ReadFile(o.config)
		if err != nil {
			t.Fatal(err)
		}
		want := "chacha20-poly1305@openssh.com"
		if strings.Contains(string(config), "Ciphers ^aes128-gcm@openssh.com") {
			want = "aes128-gcm@openssh.com"
		}
		r := o.run(t, "ssh", o.options("-v", o.target(), "true")...)
		if !strings.Contains(r.Stderr, "cipher: "+want) {
			t.Errorf("got %q, want %s agreed on", r.Stderr, want)
		}
	})
	e.Supports(t, "AES-GCM and ChaCha20, curve25519 and ECDH", func(t *testing.T) {
		for _, opt := range []string{
			"Ciphers=aes128-gcm@openssh.com",
			"Ciphers=aes256-gcm@openssh.com",
			"Ciphers=chacha20-poly1305@openssh.com",
			"KexAlgorithms=curve25519-sha256",
			"KexAlgorithms=ecdh-sha2-nistp256",
		} {
			_, value, _ := strings.Cut(opt, "=")
			r := o.run(t, "ssh", o.options("-v", "-o", opt, o.target(), "true")...)
			if r.Code != 0 || !strings.Contains(r.Stderr, value) {
				t.Errorf("%s: got %+v, want it agreed on", opt, r)
			}
		}
	})
	const old = "refuses old algorithms: group1 and group14 with SHA-1, CBC, 3DES, HMAC with MD5 or SHA-1, " +
		"ssh-rsa, ssh-dss"
	e.Supports(t, old, func(t *testing.T) {
		for _, opt := range []string{
			"KexAlgorithms=diffie-hellman-group1-sha1",
			"KexAlgorithms=diffie-hellman-group14-sha1",
			"Ciphers=aes128-cbc",
			"Ciphers=3des-cbc",
			"HostKeyAlgorithms=ssh-rsa",
			"HostKeyAlgorithms=ssh-dss",
			"MACs=hmac-md5",
			"MACs=hmac-sha1",
		} {
			args := []string{"-o", opt}
			if strings.HasPrefix(opt, "MACs") {
				args = append(args, "-o", "Ciphers=aes128-ctr") // AES-GCM and ChaCha20 use no MAC
			}
			r := o.run(t, "ssh", o.options(append(args, o.target(), "true")...)...)
			if r.Code != 255 || !strings.Contains(r.Stderr, "no matching") {
				t.Errorf("%s: got %+v, want no common algorithm", opt, r)
			}
		}
	})
}

// keyscan asks the proxy for its host key. Nodes do not listen.
func keyscan(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	const what = "ssh-keyscan of the proxy's port gets the proxy's host key and its certificate"
	e.Supports(t, what, func(t *testing.T) {
		host, port, err := net.SplitHostPort(o.Proxy)
		if err != nil {
			t.Fatal(err)
		}
		out := o.run(t, "ssh-keyscan", "-t", "ed25519", "-p", port, host).OK(t)
		if !strings.Contains(out, " ssh-ed25519 ") {
			t.Errorf("got %q, want the key", out)
		}
		out = o.run(t, "ssh-keyscan", "-c", "-t", "ed25519", "-p", port, host).OK(t)
		if !strings.Contains(out, "ssh-ed25519-cert-v01@openssh.com") {
			t.Errorf("got %q, want the certificate", out)
		}
	})
}

// manyClients connects often from one address through one proxy. No limit may refuse that.
func manyClients(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	const inARow, atOnce = 200, 50
	programs := [][]string{
		append([]string{"ssh"}, o.options(o.target(), "true")...),
		append([]string{"ssh"}, o.options("-J", "x@"+o.Proxy, o.account.Username+"@anvil", "true")...),
		{o.client.Path(), "ssh", o.account.Username + "@anvil", "true"},
	}
	connect := func(t *testing.T, i int) {
		t.Helper()
		p := programs[i%len(programs)]
		if r := o.run(t, p[0], p[1:]...); r.Code != 0 {
			t.Errorf("connection %d by %s: got %+v", i, p[0], r)
		}
	}
	what := fmt.Sprintf("%d connections one after the other do not fail: ssh, ssh -J and tsh in turn", inARow)
	e.Supports(t, what, func(t *testing.T) {
		for i := range inARow {
			connect(t, i)
		}
	})
	what = fmt.Sprintf("%d connections at once do not fail, by the same three", atOnce)
	e.Supports(t, what, func(t *testing.T) {
		var all sync.WaitGroup
		for i := range atOnce {
			all.Go(func() { connect(t, i) })
		}
		all.Wait()
	})
}
