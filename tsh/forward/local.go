package forward

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
)

// acceptPause is the pause after an error of Accept that passes, such as too many open files.
const acceptPause = 100 * time.Millisecond

// accept serves one listener until it is closed.
func (f *Forwarder) accept(c *ssh.Client, l localListener) {
	for {
		conn, err := l.Accept()
		var timeout interface{ Timeout() bool }
		switch {
		case err == nil:
			f.conns.Go(func() { f.serveLocal(c, conn.(stream), l.to) })
		case errors.As(err, &timeout) && timeout.Timeout():
		case errors.Is(err, net.ErrClosed):
			return
		default:
			f.notify(fmt.Sprintf("%s: %v", l.Addr(), err))
			<-time.After(acceptPause)
		}
	}
}

// serveLocal serves a connection to a local listener: it opens a channel to the address to on the node's
// side, or to the one that the client asks for in SOCKS if to is zero, and copies in both directions until
// both have ended.
func (f *Forwarder) serveLocal(c *ssh.Client, conn stream, to Addr) {
	defer f.count()()
	defer conn.Close()
	req := SOCKSRequest{To: to}
	if to == (Addr{}) {
		nc := conn.(net.Conn)
		_ = nc.SetDeadline(time.Now().Add(socksTime))
		var err error
		if req, err = ReadSOCKS(nc); err != nil {
			if req.Version != 0 {
				_, _ = nc.Write(req.Reply(false))
			}
			f.notify(err.Error())
			return
		}
		_ = nc.SetDeadline(time.Time{})
	}
	ch, reqs, err := OpenTo(c, req.To, conn.(net.Conn).RemoteAddr())
	if req.Version != 0 {
		_, _ = conn.Write(req.Reply(err == nil))
	}
	if err != nil {
		f.notify(describeRefusal(req.To, err))
		return
	}
	Pipe(conn, ch, reqs)
}

// OpenTo opens a channel that the node connects to an address on its side. from is the address of the
// connecting program, for the node's log; nil means this machine.
func OpenTo(c ssh.Conn, to Addr, from net.Addr) (ssh.Channel, <-chan *ssh.Request, error) {
	if to.Path != "" {
		return c.OpenChannel("direct-streamlocal@openssh.com", ssh.Marshal(struct {
			Path     string
			Reserved string
			Ignored  uint32
		}{to.Path, "", 0}))
	}
	origin := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	if tcp, ok := from.(*net.TCPAddr); ok {
		origin = tcp
	}
	return c.OpenChannel("direct-tcpip", ssh.Marshal(struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}{to.Host, uint32(to.Port), origin.IP.String(), uint32(origin.Port)}))
}

// describeRefusal says why the node did not connect. If its rules refuse, the reason is the node's text.
func describeRefusal(to Addr, err error) string {
	reason := "the connection to the node was lost"
	var open *ssh.OpenChannelError
	if errors.As(err, &open) {
		reason = open.Reason.String()
		if open.Message != "" {
			var remedy string
			if reason, remedy = fault.SplitLine(open.Message); remedy != "" {
				reason += "; " + remedy
			}
		}
	}
	return fmt.Sprintf("no connection to %s through the node: %s", to, reason)
}
