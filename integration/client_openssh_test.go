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

// opensshStory is what most people and most programs use, both ways: by the configuration of tsh, and by a
// jump that needs no tsh.
func opensshStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	ways := []struct {
		name  string
		via   harness.Feature
		args  []string
		where string
	}{
		{"by tsh config", harness.ByCommand, o.options(), o.target()},
		{"by ssh -J", harness.ByJump, o.options("-J", "anyone@"+o.Proxy), o.account.Username + "@anvil"},
	}
	for _, way := range ways {
		e.Supports(
			t,
			way.name+": runs a command, with its exit status and both outputs apart",
			func(t *testing.T) {
				r := o.run(t, "ssh", append(way.args, way.where, "id -un; echo oops >&2; exit 7")...)
				if strings.TrimSpace(r.Stdout) != o.account.Username ||
					strings.TrimSpace(r.Stderr) != "oops" ||
					r.Code != 7 {
					t.Errorf("got %+v, want the account, oops and 7", r)
				}
			},
			harness.Certificate,
			harness.Exec,
			way.via,
		)
		e.Supports(t, way.name+": a shell on a terminal that changes its size", func(t *testing.T) {
			usesATerminal(t, o.start("ssh", append(way.args, "-tt", way.where)...))
		}, harness.Shell, way.via)
		e.Supports(t, way.name+": forwards with -L, -R, -D and -W", func(t *testing.T) {
			forwards(t, o, append(way.args, way.where), way.where)
		}, harness.Local, harness.Remote, harness.Dynamic, way.via)
	}
	e.Supports(
		t,
		"carries 8 MB of binary input and output, the keys renewed every megabyte",
		func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "noise")
			data := writeRandomFile(t, file, 8<<20)
			in, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			r := harness.Run(
				t,
				o.client.Env,
				in,
				"ssh",
				o.options("-o", "RekeyLimit=1M", "-C", o.target(), "cat")...)
			if r.OK(t) != string(data) {
				t.Errorf("got %d bytes, want the %d bytes sent", len(r.Stdout), len(data))
			}
		},
	)
	e.Supports(t, "tells by which signal a command ended", func(t *testing.T) {
		if r := o.run(t, "ssh", o.options("-v", o.target(), "kill -TERM $$")...); r.Code != 255 ||
			!strings.Contains(r.Stderr, "exit-signal") {
			t.Errorf("got %d and %q, want 255 and the signal told", r.Code, r.Stderr)
		}
	})
	e.Supports(
		t,
		"scp, also scp -O, files and folders",
		func(t *testing.T) { copiesBySCP(t, o) },
		harness.SCP,
	)
	e.Supports(
		t,
		"sftp: list, df, mkdir, put, rename, ln, symlink, chmod, get, resume both ways, remove",
		func(t *testing.T) { usesSFTP(t, o) },
		harness.SFTP,
	)
	e.Supports(
		t,
		"ControlMaster: 50 sessions at once on one connection",
		func(t *testing.T) { sharesAConnection(t, o) },
		harness.Shared,
	)
	e.Supports(t, "forwards Unix sockets both ways", func(t *testing.T) {
		forwardsSockets(
			t,
			func(flags ...string) *exec.Cmd { return o.start("ssh", o.options(append(flags, o.target())...)...) },
		)
	}, harness.Sockets)
	e.Supports(t, "lends its agent with -A", func(t *testing.T) {
		forwardsItsAgent(t, o, func(flag, command string) []string {
			return append([]string{"ssh"}, o.options(flag, o.target(), command)...)
		})
	}, harness.Agent)
	e.Supports(t, "sends LANG and LC_*; other variables are dropped without a word", func(t *testing.T) {
		cmd := o.options("-o", "SetEnv=LC_TEST=kept LD_PRELOAD=x", o.target(), "echo $LC_TEST,$LD_PRELOAD")
		if out := o.run(t, "ssh", cmd...).OK(t); strings.TrimSpace(out) != "kept," {
			t.Errorf("got %q, want LC_TEST alone", out)
		}
	})
	e.Supports(t, "-X is refused, and the session goes on without", func(t *testing.T) {
		if r := o.run(t, "ssh", o.options("-v", "-X", "-o", "ForwardX11Trusted=yes", o.target(), "echo here")...); strings.TrimSpace(
			r.OK(t),
		) != "here" {
			t.Errorf("got %+v, want the command run", r)
		}
	})
	algorithms(t, o, e)
	keyscan(t, o, e)
	manyClients(t, o, e)
	e.AddNote(
		"OpenSSH's client decides which cipher is used, and up to 10.0 it puts ChaCha20 before AES-GCM, whatever a server prefers; hence the line in `tsh config`. " +
			"With ssh -J, `-c aes128-gcm@openssh.com` does the same. The node offers the post-quantum exchange mlkem768x25519-sha256, which OpenSSH knows from 9.9 on; " +
			"with the sntrup761x25519 of older releases there is nothing in common, so those agree on curve25519.",
	)
	e.AddNote(
		"Nodes listen nowhere, so `ssh-keyscan` cannot ask them. It is not needed: every host key has a certificate, which `@cert-authority` in the known hosts that " +
			"tsh writes covers.",
	)
}

// forwards tries the ways to forward TCP.
func forwards(t *testing.T, o *clientFixture, args []string, where string) {
	t.Helper()
	behind := startEcho(t, "tcp", "127.0.0.1:0")
	local, remote, socks := harness.FreeAddr(
		t,
		"127.0.0.1",
	), harness.FreeAddr(
		t,
		"127.0.0.1",
	), harness.FreeAddr(
		t,
		"127.0.0.1",
	)
	p := startUntilEnd(
		t,
		o.start(
			"ssh",
			append(
				[]string{
					"-N",
					"-o",
					"ExitOnForwardFailure=yes",
					"-L",
					local + ":" + behind,
					"-R",
					remote + ":" + behind,
					"-D",
					socks,
				},
				args...)...),
	)
	t.Run("L", func(t *testing.T) { checkClientEcho(t, dialer("tcp", local)) })
	t.Run("R", func(t *testing.T) { checkClientEcho(t, dialer("tcp", remote)) })
	t.Run("D", func(t *testing.T) { checkClientEcho(t, bySOCKS(socks, behind)) })
	t.Run("what does not answer is refused", func(t *testing.T) {
		if conn, err := bySOCKS(socks, harness.FreeAddr(t, "127.0.0.1"))(); err == nil {
			conn.Close()
			t.Error("got a connection to a port where nobody listens, want an error")
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
		r := harness.Run(
			t,
			o.client.Env,
			strings.NewReader("through"),
			"ssh",
			append([]string{"-W", behind}, args...)...)
		if r.OK(t) != "through" {
			t.Errorf("got %q, want it echoed", r.Stdout)
		}
	})
}

// bySOCKS dials through a client's -D.
func bySOCKS(socks, address string) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		d, err := proxy.SOCKS5("tcp", socks, nil, proxy.Direct)
		if err != nil {
			return nil, err
		}
		return d.Dial("tcp", address)
	}
}

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
		t.Errorf("got %+v, want the missing file told", r)
	}
}

func usesSFTP(t *testing.T, o *clientFixture) {
	dir := t.TempDir()
	from, back := filepath.Join(dir, "from"), filepath.Join(dir, "back")
	data := writeRandomFile(t, from, 2<<20)
	if err := os.WriteFile(back, data[:1<<20], 0o600); err != nil { // half of it is there already
		t.Fatal(err)
	}
	if err := os.WriteFile(o.home("half"), data[:1<<20], 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(o.home("half"), 0o666); err != nil {
		t.Fatal(err)
	}
	batch := strings.Join(
		[]string{
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
		},
		"\n",
	)
	r := harness.Run(
		t,
		o.client.Env,
		strings.NewReader(batch+"\n"),
		"sftp",
		o.options("-b", "-", o.target())...)
	if out := r.OK(t); !strings.Contains(out, o.account.HomeDir) || !strings.Contains(out, "-rw-r-----") {
		t.Errorf("got %q, want the home and the file's mode", out)
	}
	wantFile(t, filepath.Join(dir, "soft"), data)
	wantFile(t, back, data)
	wantFile(t, o.home("half"), data)
	if link, err := os.Readlink(o.home("sf/soft")); err != nil || link != "b" {
		t.Errorf("got a link to %q, %v, want it to b, as typed", link, err)
	}
}

func sharesAConnection(t *testing.T, o *clientFixture) {
	control := filepath.Join(sharedDir(t), "control")
	master := startUntilEnd(t, o.start("ssh", o.options("-v", "-N", "-M", "-S", control, o.target())...))
	master.WaitFor("Entering interactive session")
	const many = 50
	outs := make([]harness.Result, many)
	gate := o.home("gate") // all of them are open before any ends
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			outs[i] = o.run(
				t,
				"ssh",
				"-S",
				control,
				"-F",
				"none",
				"x",
				fmt.Sprintf(
					"touch %s.%d; while [ $(ls %s.* | wc -l) -lt %d ]; do sleep 0.1; done; echo %d",
					gate,
					i,
					gate,
					many,
					i,
				),
			)
		})
	}
	all.Wait()
	for i, r := range outs {
		if strings.TrimSpace(r.OK(t)) != fmt.Sprint(i) {
			t.Errorf("got %q from session %d", r.Stdout, i)
		}
	}
	o.run(t, "ssh", "-S", control, "-O", "exit", "x").OK(t)
	_ = master.Wait() // with 0 or 255, as the release has it
}

// forwardsSockets tries -L and -R with Unix sockets on a client that stays with these flags.
func forwardsSockets(t *testing.T, client func(flags ...string) *exec.Cmd) {
	dir := sharedDir(t)
	behind := startEcho(t, "unix", filepath.Join(dir, "behind"))
	local, remote := filepath.Join(dir, "local"), filepath.Join(dir, "remote")
	startUntilEnd(
		t,
		client("-N", "-o", "ExitOnForwardFailure=yes", "-L", local+":"+behind, "-R", remote+":"+behind),
	)
	t.Run("L", func(t *testing.T) { checkClientEcho(t, dialer("unix", local)) })
	t.Run("R", func(t *testing.T) { checkClientEcho(t, dialer("unix", remote)) })
}

// forwardsItsAgent tries -A and -a on a client, given the words that run a command with the flag.
func forwardsItsAgent(t *testing.T, o *clientFixture, client func(flag, command string) []string) {
	dir := t.TempDir()
	socket, key := filepath.Join(dir, "agent"), filepath.Join(dir, "key")
	harness.Start(t, nil, "ssh-agent", "-D", "-a", socket)
	o.run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lent by the story", "-f", key).OK(t)
	dialUntilUp(t, dialer("unix", socket)).Close()
	env := append(o.client.Env, "SSH_AUTH_SOCK="+socket)
	harness.Run(t, env, nil, "ssh-add", "-q", key).OK(t)
	words := client("-A", "ssh-add -l")
	if out := harness.Run(t, env, nil, words[0], words[1:]...).OK(t); !strings.Contains(
		out,
		"lent by the story",
	) {
		t.Errorf("got %q, want the agent's key listed on the node", out)
	}
	words = client("-a", "ssh-add -l")
	if r := harness.Run(t, env, nil, words[0], words[1:]...); r.Code == 0 {
		t.Errorf("got %+v, want no agent without -A", r)
	}
}

// algorithms shows what is agreed on with this release, and that what is old is refused.
func algorithms(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	e.Supports(
		t,
		"tsh config puts AES-GCM before ChaCha20 where the processor knows AES",
		func(t *testing.T) {
			written, err := os.ReadFile(o.config)
			if err != nil {
				t.Fatal(err)
			}
			want := "chacha20-poly1305@openssh.com"
			if strings.Contains(string(written), "Ciphers ^aes128-gcm@openssh.com") {
				want = "aes128-gcm@openssh.com"
			}
			if r := o.run(t, "ssh", o.options("-v", o.target(), "true")...); !strings.Contains(
				r.Stderr,
				"cipher: "+want,
			) {
				t.Errorf("got %q, want %s agreed on", r.Stderr, want)
			}
		},
	)
	e.Supports(t, "AES-GCM and ChaCha20 alike, curve25519 and ECDH alike", func(t *testing.T) {
		for _, opt := range []string{"Ciphers=aes128-gcm@openssh.com", "Ciphers=aes256-gcm@openssh.com", "Ciphers=chacha20-poly1305@openssh.com", "KexAlgorithms=curve25519-sha256", "KexAlgorithms=ecdh-sha2-nistp256"} {
			_, value, _ := strings.Cut(opt, "=")
			if r := o.run(t, "ssh", o.options("-v", "-o", opt, o.target(), "true")...); r.Code != 0 ||
				!strings.Contains(r.Stderr, value) {
				t.Errorf("%s: got %+v, want it agreed on", opt, r)
			}
		}
	})
	e.Supports(
		t,
		"algorithms that are too old are refused: group1 and group14 with SHA-1, CBC, 3DES, HMAC with MD5 or SHA-1, ssh-rsa, ssh-dss",
		func(t *testing.T) {
			for _, opt := range []string{"KexAlgorithms=diffie-hellman-group1-sha1", "KexAlgorithms=diffie-hellman-group14-sha1", "Ciphers=aes128-cbc", "Ciphers=3des-cbc",
				"HostKeyAlgorithms=ssh-rsa", "HostKeyAlgorithms=ssh-dss", "MACs=hmac-md5", "MACs=hmac-sha1"} {
				args := []string{"-o", opt}
				if strings.HasPrefix(opt, "MACs") {
					args = append(args, "-o", "Ciphers=aes128-ctr") // GCM and ChaCha20 have no use for a MAC
				}
				if r := o.run(t, "ssh", o.options(append(args, o.target(), "true")...)...); r.Code != 255 ||
					!strings.Contains(r.Stderr, "no matching") {
					t.Errorf("%s: got %+v, want nothing in common", opt, r)
				}
			}
		},
	)
}

// keyscan asks the only door there is.
func keyscan(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	e.Supports(
		t,
		"ssh-keyscan of the proxy's port gets the proxy's host key and its certificate",
		func(t *testing.T) {
			host, port, err := net.SplitHostPort(o.Proxy)
			if err != nil {
				t.Fatal(err)
			}
			if out := o.run(t, "ssh-keyscan", "-t", "ed25519", "-p", port, host).OK(t); !strings.Contains(
				out,
				" ssh-ed25519 ",
			) {
				t.Errorf("got %q, want the key", out)
			}
			if out := o.run(t, "ssh-keyscan", "-c", "-t", "ed25519", "-p", port, host).OK(t); !strings.Contains(
				out,
				"ssh-ed25519-cert-v01@openssh.com",
			) {
				t.Errorf("got %q, want the certificate", out)
			}
		},
	)
}

// manyClients is honest use in numbers, from one address through one proxy.
func manyClients(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	const inARow, atOnce = 200, 50
	programs := [][]string{
		append([]string{"ssh"}, o.options(o.target(), "true")...),
		append([]string{"ssh"}, o.options("-J", "x@"+o.Proxy, o.account.Username+"@anvil", "true")...),
		{o.client.Path(), "ssh", o.account.Username + "@anvil", "true"},
	}
	turn := func(t *testing.T, i int) {
		t.Helper()
		p := programs[i%len(programs)]
		if r := o.run(t, p[0], p[1:]...); r.Code != 0 {
			t.Errorf("connect %d by %s: got %+v", i, p[0], r)
		}
	}
	e.Supports(
		t,
		fmt.Sprintf("%d connects in a row without a failure: ssh, ssh -J and tsh in turn", inARow),
		func(t *testing.T) {
			for i := range inARow {
				turn(t, i)
			}
		},
	)
	e.Supports(
		t,
		fmt.Sprintf("%d connects at once without a failure, by the same three", atOnce),
		func(t *testing.T) {
			var all sync.WaitGroup
			for i := range atOnce {
				all.Go(func() { turn(t, i) })
			}
			all.Wait()
		},
	)
}
