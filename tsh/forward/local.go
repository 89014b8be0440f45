package forward

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/tsh/sshclient"
)

// acceptPause is the pause after an error of Accept that passes, such as too many open files.
const acceptPause = 100 * time.Millisecond

// accept accepts connections on one listener and serves each in a goroutine, until the listener is closed.
// After an error that passes, such as too many open files, it tells the user, pauses and goes on.
func (f *Forwarder) accept(client *ssh.Client, l localListener) {
	for {
		conn, err := l.Accept()
		var timeout interface{ Timeout() bool }
		switch {
		case err == nil:
			f.conns.Go(func() { f.serveLocal(client, conn.(stream), l.to) })
		case errors.As(err, &timeout) && timeout.Timeout(): // try again at once
		case errors.Is(err, net.ErrClosed):
			return
		default:
			f.notify(fmt.Sprintf("%s: %v", l.Addr(), err))
			<-time.After(acceptPause)
		}
	}
}

// serveLocal serves conn, a connection to a local listener, and closes it: it opens a channel to the address
// to on the node's side, and copies in both directions until both have ended. For -D to is the zero Addr:
// then the program at the other end of conn sends a SOCKS request with the address. If that fails, serveLocal
// tells the user, and the program if it uses SOCKS.
func (f *Forwarder) serveLocal(client *ssh.Client, conn stream, to Addr) {
	defer f.countOpen()()
	defer conn.Close()
	netConn := conn.(net.Conn)
	req := SOCKSRequest{To: to} // its version is 0: the program does not use SOCKS
	usesSOCKS := to == (Addr{})
	if usesSOCKS {
		_ = netConn.SetDeadline(time.Now().Add(socksTime))
		var err error
		if req, err = ReadSOCKS(netConn); err != nil {
			if req.Version != 0 { // the program sent enough to be answered
				_, _ = netConn.Write(req.Reply(false))
			}
			f.notify(err.Error())
			return
		}
		_ = netConn.SetDeadline(time.Time{}) // the connection itself has no time limit
	}
	ch, reqs, err := OpenTo(client, req.To, netConn.RemoteAddr())
	if usesSOCKS {
		_, _ = conn.Write(req.Reply(err == nil))
	}
	if err != nil {
		f.notify(describeRefusal(req.To, err))
		return
	}
	Pipe(conn, ch, reqs)
}

// OpenTo opens a channel that the node connects to the address to on its side (RFC 4254 section 7.2, OpenSSH
// PROTOCOL section 2.4). from is the address of the program whose connection is forwarded, for the node's
// log; an address that is not TCP, or nil, is sent as 127.0.0.1. The error is that of ssh.Conn.OpenChannel.
func OpenTo(conn ssh.Conn, to Addr, from net.Addr) (ssh.Channel, <-chan *ssh.Request, error) {
	if to.Path != "" {
		return conn.OpenChannel("direct-streamlocal@openssh.com", ssh.Marshal(struct {
			Path     string
			Reserved string
			Ignored  uint32
		}{to.Path, "", 0}))
	}
	origin := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	if tcp, ok := from.(*net.TCPAddr); ok {
		origin = tcp
	}
	return conn.OpenChannel("direct-tcpip", ssh.Marshal(struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}{to.Host, uint32(to.Port), origin.IP.String(), uint32(origin.Port)}))
}

// describeRefusal returns the message for the user about err, the error of OpenTo for the address to. The
// reason is the node's text, with its hint, if the node gave one.
func describeRefusal(to Addr, err error) string {
	reason := "the connection to the node was lost"
	var refusal *ssh.OpenChannelError
	if errors.As(err, &refusal) {
		reason = refusal.Reason.String()
		if refusal.Message != "" {
			said := sshclient.ReadRefusal(refusal.Message, err)
			reason = said.Why
			if said.Hint != "" {
				reason += "; " + said.Hint
			}
		}
	}
	return fmt.Sprintf("no connection to %s through the node: %s", to, reason)
}
