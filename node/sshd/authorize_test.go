package sshd_test

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
)

// attempt tries one thing that a client can ask for. The error is the refusal, with the reason where clients
// get one.
type attempt func(*testing.T, *ssh.Client) error

// requestCases are all things that a client can ask for.
var requestCases = []struct {
	name   string
	action access.Action // what it needs; empty: it is always refused
	// silent says that the client gets no reason with a refusal, because the reply has no place for it.
	silent bool
	reason string // of a request that is always refused
	try    attempt
}{
	{name: "shell", action: access.Shell, try: program((*ssh.Session).Shell)},
	{name: "shell with a terminal", action: access.Shell, try: program(func(s *ssh.Session) error {
		return errors.Join(s.RequestPty("dumb", 24, 80, nil), s.Shell())
	})},
	{name: "exec", action: access.Exec, try: program(func(s *ssh.Session) error { return s.Start("true") })},
	{name: "exec of a builtin", action: access.Exec, try: program(func(s *ssh.Session) error {
		return s.Start("command -v true")
	})},
	{name: "sftp", action: access.SFTP, try: program(func(s *ssh.Session) error {
		return s.RequestSubsystem("sftp")
	})},
	{name: "another subsystem", silent: true, try: channelRequest("subsystem", "netconf")},

	{name: "direct-tcpip", action: access.ForwardLocal, try: func(t *testing.T, c *ssh.Client) error {
		return openChannel("direct-tcpip", directTCP(startEcho(t, "tcp")))(t, c)
	}},
	{name: "direct-streamlocal", action: access.ForwardLocal, try: func(t *testing.T, c *ssh.Client) error {
		to := encode(startEcho(t, "unix").String(), "", uint32(0))
		return openChannel("direct-streamlocal@openssh.com", to)(t, c)
	}},
	{name: "x11 channel", reason: "does not support", try: openChannel("x11", nil)},
	{name: "forwarded-tcpip", reason: "does not support", try: openChannel("forwarded-tcpip", nil)},
	{name: "tun", reason: "does not support", try: openChannel("tun@openssh.com", nil)},
	{name: "agent channel", reason: "does not support", try: openChannel("auth-agent@openssh.com", nil)},

	{name: "tcpip-forward", action: access.ForwardRemote, silent: true,
		try: func(t *testing.T, c *ssh.Client) error {
			_, err := listenTCP(c, "127.0.0.1", 0)
			return err
		}},
	{name: "cancel-tcpip-forward", action: access.ForwardRemote, silent: true,
		try: func(t *testing.T, c *ssh.Client) error {
			port, _ := listenTCP(c, "localhost", 0)
			return globalRequest("cancel-tcpip-forward", encode("localhost", port))(t, c)
		}},
	{name: "streamlocal-forward", action: access.ForwardRemote, silent: true,
		try: func(t *testing.T, c *ssh.Client) error {
			path := encode(filepath.Join(t.TempDir(), "s"))
			return globalRequest("streamlocal-forward@openssh.com", path)(t, c)
		}},
	{name: "cancel-streamlocal-forward", action: access.ForwardRemote, silent: true,
		try: func(t *testing.T, c *ssh.Client) error {
			path := encode(filepath.Join(t.TempDir(), "s"))
			_ = globalRequest("streamlocal-forward@openssh.com", path)(t, c)
			return globalRequest("cancel-streamlocal-forward@openssh.com", path)(t, c)
		}},
	{name: "hostkeys-prove", silent: true, try: globalRequest("hostkeys-prove-00@openssh.com", nil)},
	{name: "unknown global request", silent: true,
		try: globalRequest("open-sesame", encode("127.0.0.1", uint32(0)))},

	{name: "agent forwarding", action: access.ForwardAgent,
		try: channelRequestWithReason("auth-agent-req@openssh.com")},
	{name: "x11 forwarding", reason: "this node does not forward X11",
		try: channelRequestWithReason("x11-req", "single")},
	{name: "break", silent: true, try: channelRequest("break")},
	{name: "xon-xoff", silent: true, try: channelRequest("xon-xoff")},
	{name: "unknown session request", silent: true, try: channelRequest("open-sesame")},
	{name: "LD_PRELOAD", silent: true, try: channelRequest("env", "LD_PRELOAD", "/tmp/x.so")},
}

// program tries to run a program. It tells a refusal by the exit status 126 and takes the message on stderr.
func program(start func(*ssh.Session) error) attempt {
	return func(t *testing.T, c *ssh.Client) error {
		s := newSession(t, c)
		in, _ := s.StdinPipe()
		stderr, _ := s.StderrPipe()
		if err := start(s); err != nil {
			text := make([]byte, 4096)
			n, _ := stderr.Read(text) // it was sent before the refusal
			return fmt.Errorf("%w: %s", err, text[:n])
		}
		_, _ = io.WriteString(in, "exit\n") // a shell on a terminal does not end with its input
		in.Close()
		err := s.Wait()
		var exit *ssh.ExitError
		if errors.As(err, &exit) && exit.ExitStatus() == 126 {
			text, _ := io.ReadAll(stderr)
			return errors.New(string(text))
		}
		return nil
	}
}

// openChannel tries to open a channel.
func openChannel(kind string, extra []byte) attempt {
	return func(_ *testing.T, c *ssh.Client) error {
		ch, _, err := c.OpenChannel(kind, extra)
		if err == nil {
			ch.Close()
		}
		return err
	}
}

// globalRequest tries a global request.
func globalRequest(name string, payload []byte) attempt {
	return func(_ *testing.T, c *ssh.Client) error {
		ok, _, err := c.SendRequest(name, true, payload)
		if err == nil && !ok {
			err = errors.New("refused")
		}
		return err
	}
}

// channelRequest tries a request on a session channel.
func channelRequest(name string, args ...string) attempt {
	return func(t *testing.T, c *ssh.Client) error { return sendChannelRequest(newSession(t, c), name, args) }
}

func sendChannelRequest(s *ssh.Session, name string, args []string) error {
	var payload []byte
	for _, a := range args {
		payload = append(payload, encode(a)...)
	}
	ok, err := s.SendRequest(name, true, payload)
	if err == nil && !ok {
		err = errors.New("refused")
	}
	return err
}

// channelRequestWithReason is channelRequest for a request whose refusal is explained on stderr.
func channelRequestWithReason(name string, args ...string) attempt {
	return func(t *testing.T, c *ssh.Client) error {
		s := newSession(t, c)
		err := sendChannelRequest(s, name, args)
		if err != nil {
			text := make([]byte, 4096)
			stderr, _ := s.StderrPipe()
			n, _ := stderr.Read(text)
			err = fmt.Errorf("%w: %s", err, text[:n])
		}
		return err
	}
}

// It tries everything that a client can ask for with roles that allow all actions, all but one, only one, and
// all with a deny for one. Exactly what is granted is allowed, and each refusal says why.
func TestEveryRequestAgainstRolesWithAndWithoutItsGrant(t *testing.T) {
	t.Parallel()
	all := []string{"shell", "exec", "sftp", "forward-local", "forward-remote", "forward-agent"}
	f := newFixture(t, nil)
	roles := []access.Role{fullRole("all", all...)}
	for _, a := range all {
		others := slices.DeleteFunc(slices.Clone(all), func(x string) bool { return x == a })
		denied := fullRole("denied-"+a, all...)
		denied.Deny = []access.Grant{{
			Nodes:   map[string]access.Strings{"*": {"*"}},
			Actions: access.Strings{a},
		}}
		roles = append(roles, fullRole("without-"+a, others...), denied, fullRole("only-"+a, a))
	}
	f.allow(roles...)
	for _, role := range roles {
		t.Run(role.Name, func(t *testing.T) {
			c := f.client(f.signer(role.Name))
			kind, of, _ := strings.Cut(role.Name, "-") // all, or without, denied or only of one action
			for _, tt := range requestCases {
				granted := tt.action != "" && (kind == "all" || (kind == "only") == (of == string(tt.action)))
				err := tt.try(t, c)
				if (err == nil) != granted {
					t.Errorf("%s: got %v, want allowed %v", tt.name, err, granted)
				}
				if granted || err == nil || tt.silent {
					continue
				}
				reason := tt.reason
				switch {
				case tt.action == "":
				case kind == "denied":
					reason = "role " + role.Name + ", deny 1"
				default:
					reason = "no role of alice@example.com"
				}
				if !strings.Contains(err.Error(), reason) {
					t.Errorf("%s: got %v, want %q in it", tt.name, err, reason)
				}
			}
		})
	}
	for _, e := range f.recorded(audit.SessionRefused) {
		refusal := bodyOf[audit.SessionRefusal](t, e)
		if refusal.Reason == "" || e.Actor.Name != "alice@example.com" || refusal.Request == "" {
			t.Errorf("got refusal %+v, want the user, the request and the reason", e)
		}
	}
}

func TestKeepaliveIsAnswered(t *testing.T) {
	t.Parallel()
	c := newFixture(t, nil).client()
	if ok, _, err := c.SendRequest("keepalive@openssh.com", true, nil); err != nil || !ok {
		t.Errorf("got %v, %v, want a reply", ok, err)
	}
	if ok, err := newSession(t, c).SendRequest("keepalive@openssh.com", true, nil); err != nil || !ok {
		t.Errorf("got %v, %v on a session, want a reply", ok, err)
	}
}
