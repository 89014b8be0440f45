package sshd_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/node/sshd"
)

// startEcho starts a server on loopback or a Unix socket that sends back what it receives.
func startEcho(t testing.TB, network string) net.Addr {
	t.Helper()
	at := "127.0.0.1:0"
	if network == "unix" {
		at = filepath.Join(t.TempDir(), "echo")
	}
	ln, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			}()
		}
	}()
	return ln.Addr()
}

// directTCP is the data of a direct-tcpip channel.
func directTCP(to net.Addr) []byte {
	host, port, _ := net.SplitHostPort(to.String())
	n, _ := strconv.Atoi(port)
	return encode(host, uint32(n), "127.0.0.1", uint32(1))
}

// listenTCP asks for a listener and returns its port.
func listenTCP(c *ssh.Client, host string, port uint32) (uint32, error) {
	ok, reply, err := c.SendRequest("tcpip-forward", true, encode(host, port))
	switch {
	case err != nil:
		return 0, err
	case !ok:
		return 0, errors.New("refused")
	case port == 0 && len(reply) == 4:
		return binary.BigEndian.Uint32(reply), nil
	case port != 0 && len(reply) == 0:
		return port, nil
	}
	return 0, fmt.Errorf("a reply of %d bytes", len(reply))
}

// wantEcho sends text and EOF, and wants the same back.
func wantEcho(t *testing.T, c interface {
	io.ReadWriter
	CloseWrite() error
}, text string) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, text)
		sent <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != text {
		t.Errorf("got %d bytes, %v, want the %d sent", len(got), err, len(text))
	}
	if err := receive(t, "what was sent", sent); err != nil {
		t.Error(err)
	}
}

var megabytes = strings.Repeat("0123456789abcdef", 1<<17)

// Data goes to a TCP port and a Unix socket and back, and each target is audited once.
func TestLocalForwards(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	tcp, unix := startEcho(t, "tcp"), startEcho(t, "unix")
	for name, extra := range map[string][]byte{
		"direct-tcpip":                   directTCP(tcp),
		"direct-streamlocal@openssh.com": encode(unix.String(), "", uint32(0)),
	} {
		for range 2 {
			ch, reqs, err := c.OpenChannel(name, extra)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			go ssh.DiscardRequests(reqs)
			wantEcho(t, ch, megabytes)
			ch.Close()
		}
	}
	events := f.recorded(audit.ForwardStarted)
	if len(events) != 2 {
		t.Fatalf("got %d events of two targets that were used twice, want 2", len(events))
	}
	for _, e := range events {
		started := bodyOf[audit.ForwardStart](t, e)
		if to := started.Target; to != tcp.String() && to != unix.String() ||
			started.Forward != "local" ||
			started.Rule != "role ops, allow 1" ||
			e.Actor.Name != "alice@example.com" {
			t.Errorf("got %+v, want who, where to and by which rule", e)
		}
	}
}

// It is not parallel: another test might listen on a port that must be free.
func TestUnreachableForwardTargetsAreExplained(t *testing.T) {
	names := map[string][]netip.Addr{
		"metadata.example": {netip.MustParseAddr("169.254.169.254")},
		"mapped.example":   {netip.MustParseAddr("::ffff:169.254.169.254")},
		"both.example":     {netip.MustParseAddr("fe80::1%lo"), netip.MustParseAddr("127.0.0.1")},
	}
	resolved := map[string]int{}
	f := newFixture(t, func(c *sshd.Config) {
		c.Resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
			resolved[host]++
			if a, ok := names[host]; ok {
				return a, nil
			}
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
	})
	c := f.client()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	tcpTarget := func(host string, port int) []byte { return encode(host, uint32(port), "", uint32(0)) }
	for _, tt := range []struct {
		name   string
		extra  []byte
		reason ssh.RejectionReason
		text   string // part of the message
	}{
		{"nobody listens", directTCP(closed.Addr()), ssh.ConnectionFailed, "connection refused"},
		{"no such host", tcpTarget("no.example", 80), ssh.ConnectionFailed, "there is no host no.example"},
		{"a metadata address", tcpTarget("169.254.169.254", 80), ssh.Prohibited, "metadata"},
		{"the same inside of IPv6", tcpTarget("::ffff:169.254.169.254", 80), ssh.Prohibited, "metadata"},
		{"the same for a translator", tcpTarget("64:ff9b::a9fe:a9fe", 80), ssh.Prohibited, "metadata"},
		{"a name for it", tcpTarget("metadata.example", 80), ssh.Prohibited, "metadata"},
		{"a name for it, mapped", tcpTarget("mapped.example", 80), ssh.Prohibited, "metadata"},
		{"metadata by IPv6", tcpTarget("fd00:ec2::254", 80), ssh.Prohibited, "metadata"},
		{"link-local by IPv6", tcpTarget("fe80::1%lo", 22), ssh.Prohibited, "link-local"},
		{"no host", tcpTarget("", 80), ssh.ConnectionFailed, "names no host"},
		{"no port", tcpTarget("127.0.0.1", 0), ssh.ConnectionFailed, "port is invalid"},
		{"a port that wraps", tcpTarget("127.0.0.1", 65536+80), ssh.ConnectionFailed, "port is invalid"},
		{"a name with blanks", tcpTarget("a b", 80), ssh.ConnectionFailed, "host name is invalid"},
		{"cut short", []byte{0, 0, 0, 9, 'x'}, ssh.ConnectionFailed, "could not be read"},
	} {
		_, _, err := c.OpenChannel("direct-tcpip", tt.extra)
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) || refused.Reason != tt.reason ||
			!strings.Contains(refused.Message, tt.text) {
			t.Errorf("%s: got %v, want %v with %q", tt.name, err, tt.reason, tt.text)
		}
	}
	to := startEcho(t, "tcp").(*net.TCPAddr)
	ch, reqs, err := c.OpenChannel("direct-tcpip", tcpTarget("both.example", to.Port))
	if err != nil {
		t.Fatalf("a name with one good address: %v", err)
	}
	go ssh.DiscardRequests(reqs)
	wantEcho(t, ch, "x")
	for host, n := range resolved {
		if n != 1 {
			t.Errorf("got %s resolved %d times, want once: a second answer could be another", host, n)
		}
	}
	for _, e := range f.recorded(audit.SessionRefused) {
		request := bodyOf[audit.SessionRefusal](t, e).Request
		if !strings.HasPrefix(request, "direct-tcpip ") ||
			!strings.HasSuffix(request, ":80") && !strings.HasSuffix(request, ":22") {
			t.Errorf("got a refusal of %q recorded, want the target named", request)
		}
	}
	if n := len(f.recorded(audit.SessionRefused)); n != 7 {
		t.Errorf("got %d refusals recorded, want the 7 that are prohibited", n)
	}
	for path, text := range map[string]string{
		filepath.Join(t.TempDir(), "none"): "does not exist",
		"":                                 "no path",
		"/a\x00b":                          "not a valid path",
	} {
		_, _, err := c.OpenChannel("direct-streamlocal@openssh.com", encode(path, "", uint32(0)))
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: got %v, want %q in it", path, err, text)
		}
	}
}

// channelOpens returns the channels of a type that the node opens.
func channelOpens(t *testing.T, c *ssh.Client, kind string) <-chan ssh.NewChannel {
	t.Helper()
	ch := c.HandleChannelOpen(kind)
	if ch == nil {
		t.Fatalf("%s is handled already", kind)
	}
	return ch
}

// It is not parallel: another test might listen on a port that must be free.
func TestRemoteForwardsListenOnLoopbackOnly(t *testing.T) {
	f := newFixture(t, nil)
	c := f.client()
	opens := channelOpens(t, c, "forwarded-tcpip")
	for _, host := range []string{
		"", "localhost", "0.0.0.0", "::", "*", "127.0.0.1", "192.0.2.1", "db.example",
	} {
		port, err := listenTCP(c, host, 0)
		if err != nil {
			t.Errorf("%q: %v", host, err)
			continue
		}
		conn, err := net.Dial("tcp", loopbackFor(host, port))
		if err != nil {
			t.Errorf("%q: %v", host, err)
			continue
		}
		nc := receive(t, "the channel", opens)
		from := conn.LocalAddr().(*net.TCPAddr)
		want := encode(host, port, from.IP.String(), uint32(from.Port))
		if !bytes.Equal(nc.ExtraData(), want) {
			t.Errorf("%q: got %q, want the requested address and the origin %q", host, nc.ExtraData(), want)
		}
		ch, reqs, err := nc.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go ssh.DiscardRequests(reqs)
		go func() { _, _ = io.Copy(ch, ch); _ = ch.Close() }()
		wantEcho(t, conn.(*net.TCPConn), megabytes)
		onlyLoopback(t, port)
		if ok, _, _ := c.SendRequest("cancel-tcpip-forward", true, encode(host, port)); !ok {
			t.Errorf("%q: the listener could not be cancelled", host)
		}
		if conn, err := net.Dial("tcp", loopbackFor(host, port)); err == nil {
			conn.Close()
			t.Errorf("%q: got a listener after it was cancelled", host)
		}
		if ok, _, _ := c.SendRequest("cancel-tcpip-forward", true, encode(host, port)); ok {
			t.Errorf("%q: got the listener cancelled twice", host)
		}
	}
}

// loopbackFor is where the node listens when the client asks it to listen on host.
func loopbackFor(host string, port uint32) string {
	if host == "::" {
		return net.JoinHostPort("::1", fmt.Sprint(port))
	}
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(port))
}

// onlyLoopback checks in the kernel's tables that the port is open on loopback addresses only.
func onlyLoopback(t *testing.T, port uint32) {
	t.Helper()
	const listen = "0A"
	found := 0
	for _, file := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		b, _ := os.ReadFile(file)
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 4 || f[3] != listen || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				continue
			}
			found++
			if at, _, _ := strings.Cut(f[1], ":"); at != "0100007F" &&
				at != "00000000000000000000000001000000" {
				t.Errorf("got a listener on %s, want loopback alone", f[1])
			}
		}
	}
	if found == 0 {
		t.Errorf("nothing listens on port %d", port)
	}
}

// Listeners on invalid or taken addresses are refused, and so is the 65th of one connection.
func TestRemoteForwardsThatAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	taken := uint32(startEcho(t, "tcp").(*net.TCPAddr).Port)
	for name, payload := range map[string][]byte{
		"taken": encode("localhost", taken), "too high": encode("localhost", uint32(65536)),
		"cut short": encode("localhost"), "odd host": encode("a\nb", uint32(0)),
	} {
		if ok, _, err := c.SendRequest("tcpip-forward", true, payload); ok || err != nil {
			t.Errorf("%s: got %v, %v, want refused", name, ok, err)
		}
	}
	for i := range 65 {
		_, err := listenTCP(c, "127.0.0.1", 0)
		if (err == nil) != (i < 64) {
			t.Errorf("listener %d: got %v, want 64 and no more", i+1, err)
		}
	}
	c.Close()
	f.awaitClosed(t)
	if _, err := listenTCP(f.client(), "127.0.0.1", 0); err != nil {
		t.Errorf("got %v, want another connection to listen", err)
	}
}

// It is not parallel: another test might listen on a port that must be free.
func TestListenersEndWithTheirConnection(t *testing.T) {
	f := newFixture(t, nil)
	c := f.client()
	port, err := listenTCP(c, "localhost", 0)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	if err := globalRequest("streamlocal-forward@openssh.com", encode(path))(t, c); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	c.Close()
	f.awaitClosed(t)
	if conn, err := net.Dial("tcp", loopbackFor("", port)); err == nil {
		conn.Close()
		t.Error("got a listener after the end of its connection, want the port free")
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("got %v, want the socket removed", err)
	}
}

// Connections to a socket on the node reach the client; the socket is removed when the forward is cancelled.
func TestRemoteForwardsOfUnixSockets(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	opens := channelOpens(t, c, "forwarded-streamlocal@openssh.com")
	path := filepath.Join(t.TempDir(), "s")
	if err := globalRequest("streamlocal-forward@openssh.com", encode(path))(t, c); err != nil {
		t.Fatal(err)
	}
	if err := globalRequest("streamlocal-forward@openssh.com", encode(path))(t, c); err == nil {
		t.Error("got the same path twice, want what is there to stay")
	}
	for range 3 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		nc := receive(t, "the channel", opens)
		if !bytes.Equal(nc.ExtraData(), encode(path, "")) {
			t.Errorf("got %q, want the path", nc.ExtraData())
		}
		ch, reqs, err := nc.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go ssh.DiscardRequests(reqs)
		go func() { _, _ = io.Copy(ch, ch); _ = ch.Close() }()
		wantEcho(t, conn.(*net.UnixConn), megabytes)
		conn.Close()
	}
	if err := globalRequest("cancel-streamlocal-forward@openssh.com", encode(path))(t, c); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("got %v, want the socket removed", err)
	}
}

// Only sessions that ask for it get the socket of the SSH agent. All of a connection share one socket, which
// ends with the grant and is removed with the connection.
func TestAgentForwarding(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	keyring := agent.NewKeyring()
	if err := agent.ForwardToAgent(c, keyring); err != nil {
		t.Fatal(err)
	}
	s := newSession(t, c)
	if err := agent.RequestAgentForwarding(s); err != nil {
		t.Fatal(err)
	}
	out, err := s.Output(`stat -c %a "$(dirname "$SSH_AUTH_SOCK")" "$SSH_AUTH_SOCK"; echo "$SSH_AUTH_SOCK"`)
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(out))
	if len(fields) != 3 || fields[0] != "700" || fields[1] != "600" {
		t.Fatalf("got %q, want a folder with 700, a socket with 600, and its path", out)
	}
	conn, err := net.Dial("unix", fields[2])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if keys, err := agent.NewClient(conn).List(); err != nil || len(keys) != 0 {
		t.Errorf("got %v, %v, want an answer of the client's agent", keys, err)
	}
	other := newSession(t, c)
	if out, err := other.Output(`echo "${SSH_AUTH_SOCK-none}"`); err != nil || string(out) != "none\n" {
		t.Errorf("got %q, %v in a session that did not ask, want none", out, err)
	}
	again := newSession(t, c)
	if err := agent.RequestAgentForwarding(again); err != nil {
		t.Fatal(err)
	}
	if out, err := again.Output(`echo "$SSH_AUTH_SOCK"`); err != nil ||
		strings.TrimSpace(string(out)) != fields[2] {
		t.Errorf("got %q, %v, want the connection's one socket %s", out, err, fields[2])
	}
	if got := f.recorded(audit.ForwardStarted); len(got) != 1 ||
		bodyOf[audit.ForwardStart](t, got[0]).Forward != "agent" {
		t.Errorf("got %+v, want one event", got)
	}
	f.allow(fullRole("ops", "exec"))
	late, err := net.Dial("unix", fields[2])
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if _, err := agent.NewClient(late).List(); err == nil {
		t.Error("got an answer after the grant was taken away, want none")
	}
	c.Close()
	f.awaitClosed(t)
	if _, err := os.Lstat(filepath.Dir(fields[2])); !os.IsNotExist(err) {
		t.Errorf("got %v, want the folder of the socket removed", err)
	}
}

// The grant is withdrawn after the listener was opened: a connection to it is closed.
func TestEachForwardedConnectionIsAuthorizedAnew(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	opens := channelOpens(t, c, "forwarded-tcpip")
	port, err := listenTCP(c, "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	f.allow(fullRole("ops", "exec"))
	if conn, err := net.Dial("tcp", loopbackFor("", port)); err == nil { // the listener may be closed by now
		defer conn.Close()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := conn.Read(make([]byte, 1))
		if n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %d bytes, %v, want the end", n, err)
		}
	}
	select {
	case <-opens:
		t.Error("got a channel although the grant is gone")
	default:
	}
}

func TestForwardsOfOneConnectionAreLimited(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	extra := directTCP(startEcho(t, "tcp"))
	var err error
	n := 0
	for ; n < 300 && err == nil; n++ {
		_, _, err = c.OpenChannel("direct-tcpip", extra)
	}
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) || refused.Reason != ssh.ResourceShortage || n != 257 {
		t.Errorf("got %v after %d, want a shortage after 256", err, n)
	}
	if got := run(t, c, "echo still here", ""); got.out != "still here\n" {
		t.Errorf("got %+v, want sessions to go on", got)
	}
}

func TestNoMoreSessionsDoesNotStopForwards(t *testing.T) {
	t.Parallel()
	c := newFixture(t, nil).client()
	if _, _, err := c.SendRequest("no-more-sessions@openssh.com", true, nil); err != nil {
		t.Fatal(err)
	}
	if err := openChannel("direct-tcpip", directTCP(startEcho(t, "tcp")))(t, c); err != nil {
		t.Error(err)
	}
	if _, err := listenTCP(c, "localhost", 0); err != nil {
		t.Error(err)
	}
}

func TestForwardsThatCannotBeAuditedAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	f.failAudit(errDiskFull)
	if err := openChannel("direct-tcpip", directTCP(startEcho(t, "tcp")))(t, c); err == nil ||
		!strings.Contains(err.Error(), "disk is full") {
		t.Errorf("got %v, want a refusal with the reason", err)
	}
	if _, err := listenTCP(c, "localhost", 0); err == nil {
		t.Error("got a listener that is not recorded")
	}
	if err := channelRequest("auth-agent-req@openssh.com")(t, c); err == nil {
		t.Error("got an agent that is not recorded")
	}
}

// The role allows forwards, but the certificate does not have the extensions for them.
func TestForwardsNeedTheCertificateExtension(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	signer := f.cluster.UserSigner(f.cluster.User("alice@example.com", "ops"), func(c *ssh.Certificate) {
		delete(c.Extensions, "permit-port-forwarding")
		delete(c.Extensions, "permit-agent-forwarding")
	}, testAccount())
	c := f.client(signer)
	if err := openChannel("direct-tcpip", directTCP(startEcho(t, "tcp")))(t, c); err == nil ||
		!strings.Contains(err.Error(), "permit-port-forwarding") {
		t.Errorf("got %v, want the missing permit named", err)
	}
	if err := channelRequestWithReason("auth-agent-req@openssh.com")(t, c); err == nil ||
		!strings.Contains(err.Error(), "permit-agent-forwarding") {
		t.Errorf("got %v, want the missing permit named", err)
	}
	if _, err := listenTCP(c, "localhost", 0); err == nil {
		t.Error("got a listener, want it refused")
	}
}

// After many forwards of every kind, some of them interrupted, nothing is left of them. It is not parallel,
// because it counts descriptors and goroutines of the whole process.
func TestForwardsLeaveNothingBehind(t *testing.T) {
	f := newFixture(t, nil)
	tcp, unix := directTCP(startEcho(t, "tcp")), encode(startEcho(t, "unix").String(), "", uint32(0))
	fds := func() int { l, _ := os.ReadDir("/proc/self/fd"); return len(l) }
	round := func() {
		c := f.client()
		opens := channelOpens(t, c, "forwarded-tcpip")
		port, err := listenTCP(c, "127.0.0.1", 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			for name, extra := range map[string][]byte{
				"direct-tcpip":                   tcp,
				"direct-streamlocal@openssh.com": unix,
			} {
				ch, reqs, err := c.OpenChannel(name, extra)
				if err != nil {
					t.Fatal(err)
				}
				go ssh.DiscardRequests(reqs)
				_, _ = ch.Write([]byte("interrupted"))
			}
			conn, err := net.Dial("tcp", loopbackFor("", port))
			if err != nil {
				t.Fatal(err)
			}
			_, _, _ = receive(t, "a channel", opens).Accept()
			defer conn.Close()
		}
		c.Close()
		_ = c.Wait()
		f.awaitClosed(t)
	}
	round()
	// The echo servers of this test close their descriptors when they notice the end of a connection.
	eventually(t, "the descriptors of the first round are closed", func() bool { return fds() < 40 })
	before, goroutines := fds(), runtime.NumGoroutine()
	for range 3 {
		round()
	}
	eventually(
		t,
		"no descriptors and goroutines are left",
		func() bool { return fds() <= before+2 && runtime.NumGoroutine() <= goroutines+10 },
	)
}

// A forward that is open goes on during the drain; a connection that only listens is closed; nothing new is
// forwarded.
func TestForwardsMayFinishWhileTheNodeDrains(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c, waiting := f.client(), f.client()
	to := directTCP(startEcho(t, "tcp"))
	ch, reqs, err := c.OpenChannel("direct-tcpip", to)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	if _, err := listenTCP(waiting, "localhost", 0); err != nil {
		t.Fatal(err)
	}
	_, done := f.drain()
	if err := waiting.Wait(); err == nil {
		t.Error("got a connection that only listens ended by the client, want by the node")
	}
	if err := openChannel("direct-tcpip", to)(t, c); err == nil ||
		!strings.Contains(err.Error(), "this node is stopping") {
		t.Errorf("got %v, want nothing new forwarded", err)
	}
	wantEcho(t, ch, "still here")
	ch.Close()
	receive(t, "the end", done)
}

// The account is removed while a client is logged in as it: nothing more is forwarded.
func TestForwardsNeedARealAccount(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	put := func(name, text string) {
		if err := errors.Join(
			os.MkdirAll(filepath.Join(root, "etc"), 0o755),
			os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o600),
		); err != nil {
			t.Fatal(err)
		}
	}
	put("passwd", fmt.Sprintf("%s:x:%d:%d::/:/bin/sh\n", testAccount(), os.Geteuid(), os.Getegid()))
	put("group", "")
	f := newFixture(t, func(c *sshd.Config) { c.Accounts.Root = root })
	c := f.client()
	openForward := openChannel("direct-tcpip", directTCP(startEcho(t, "tcp")))
	if err := openForward(t, c); err != nil {
		t.Fatal(err)
	}
	put("passwd", "")
	if err := openForward(t, c); err == nil || !strings.Contains(err.Error(), "there is no account") {
		t.Errorf("got %v once the account is gone, want a refusal that says so", err)
	}
	if _, err := listenTCP(c, "localhost", 0); err == nil {
		t.Error("got a listener for an account that is gone")
	}
	if err := channelRequest("auth-agent-req@openssh.com")(t, c); err == nil {
		t.Error("got an agent for an account that is gone")
	}
}
