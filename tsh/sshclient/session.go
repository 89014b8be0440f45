package sshclient

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
)

// Session is a session channel on a node, with its program.
type Session struct {
	ssh.Channel
	closed chan struct{} // closed by readRequests once the node has closed the channel
	exit   Exit          // may be read once closed is closed
}

// Exit is how a program ended, as the node reports it (RFC 4254 section 6.10). The zero value means that the
// node reported nothing.
type Exit struct {
	Received bool
	Status   uint32
	Signal   string // not empty: the signal that ended the program, without SIG
}

// OpenSession opens a session channel and requests a program in it. requests, such as pty-req and env, go
// before the program and want no reply.
//
// A Threshold node reads all requests from the message that opens the channel, which saves a round trip. A
// refusal then comes as text on standard error and an exit status, as from a program. Another server gets
// each request in a message of its own; if it refuses the program, OpenSession returns both the session and
// an error, and the reason can be read from the session.
func (c *Client) OpenSession(requests []dial.ChannelRequest, program dial.ChannelRequest) (*Session, error) {
	extra, fits := dial.MarshalEarlyRequests(append(requests, program))
	early := fits && dial.ReadsEarlyRequests(c.ServerVersion())
	if !early {
		extra = nil
	}
	ch, reqs, err := c.OpenChannel("session", extra)
	if err != nil {
		return nil, ChannelRefusedFault(err, "the node refused to open a session")
	}
	s := &Session{Channel: ch, closed: make(chan struct{})}
	go s.readRequests(reqs) // ends with the connection
	if early {
		return s, nil
	}
	for _, q := range requests {
		_, _ = ch.SendRequest(q.Type, false, q.Payload) // a lost connection fails the request for the program
	}
	granted, err := ch.SendRequest(program.Type, true, program.Payload)
	if err == nil && !granted {
		err = errRequestDenied
	}
	return s, err
}

// errRequestDenied is a refused request for a program. The node may give the reason on the channel.
var errRequestDenied = errors.New("the node refused to run the command")

// readRequests stores how the program ended. It refuses every request that wants a reply: such a request is
// the node's keepalive.
func (s *Session) readRequests(reqs <-chan *ssh.Request) {
	defer close(s.closed)
	for q := range reqs {
		switch q.Type {
		case "exit-status":
			if len(q.Payload) == 4 {
				s.exit = Exit{Received: true, Status: binary.BigEndian.Uint32(q.Payload)}
			}
		case "exit-signal":
			var m struct {
				Name       string
				CoreDumped bool
				Message    string
				Language   string
			}
			if ssh.Unmarshal(q.Payload, &m) == nil {
				s.exit = Exit{Received: true, Signal: m.Name}
			}
		}
		_ = q.Reply(false, nil)
	}
}

// CopyOutput copies the program's standard output and standard error until the node has closed the channel,
// and returns how the program ended. If one of them cannot be written, it ends the session and returns an
// error.
func (s *Session) CopyOutput(stdout, stderr io.Writer) (Exit, error) {
	var both sync.WaitGroup
	var stdoutErr, stderrErr error
	write := func(to io.Writer, from io.Reader, failed *error) {
		if _, *failed = io.Copy(to, from); *failed != nil {
			_ = s.Close()
			_, _ = io.Copy(io.Discard, from) // else the other output, which shares the window, could block
		}
	}
	both.Go(func() { write(stdout, s.Channel, &stdoutErr) })
	both.Go(func() { write(stderr, s.Stderr(), &stderrErr) })
	both.Wait()
	<-s.closed
	if err := errors.Join(stdoutErr, stderrErr); err != nil {
		msg := "cannot write the output of the remote command: " + fault.DescribeNetwork(err)
		return s.exit, fault.Wrap(err, fault.Internal, "", msg, "check where standard output goes")
	}
	return s.exit, nil
}

// Resize reports a new size of the local terminal (RFC 4254 section 6.7).
func (s *Session) Resize(columns, rows int) {
	size := struct{ Columns, Rows, Width, Height uint32 }{uint32(columns), uint32(rows), 0, 0}
	_, _ = s.SendRequest("window-change", false, ssh.Marshal(size))
}

// Signal sends the program a signal (RFC 4254 section 6.9).
func (s *Session) Signal(name ssh.Signal) {
	_, _ = s.SendRequest("signal", false, ssh.Marshal(struct{ Name string }{string(name)}))
}
