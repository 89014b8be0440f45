package forward

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
)

// accept serves one listener until it is closed.
func (f *Forwarder) accept(c *ssh.Client, l localListener) {
	for {
		conn, err := l.Accept()
		var passing interface{ Timeout() bool }
		switch {
		case err == nil:
			f.conns.Go(func() { f.serveLocal(c, conn.(end), l.to) })
		case errors.As(err, &passing) && passing.Timeout():
		case errors.Is(err, net.ErrClosed):
			return
		default: // such as too many open files: that passes
			f.notify(fmt.Sprintf("%s: %v", l.Addr(), err))
			<-time.After(retryAccept)
		}
	}
}

// retryAccept is the pause after a connection could not be taken.
const retryAccept = 100 * time.Millisecond

// serveLocal serves a connection that leads to the node's side: to, or where the client says in SOCKS.
func (f *Forwarder) serveLocal(c *ssh.Client, conn end, to Addr) {
	defer f.count()()
	defer conn.Close()
	asked := SOCKSRequest{To: to}
	if to == (Addr{}) {
		nc := conn.(net.Conn)
		_ = nc.SetDeadline(time.Now().Add(socksTime))
		var err error
		if asked, err = ReadSOCKS(nc); err != nil {
			if asked.Version != 0 {
				_, _ = nc.Write(asked.Reply(false))
			}
			f.notify(err.Error())
			return
		}
		_ = nc.SetDeadline(time.Time{})
	}
	ch, reqs, err := OpenTo(c, asked.To, conn.(net.Conn).RemoteAddr())
	if asked.Version != 0 {
		_, _ = conn.Write(asked.Reply(err == nil))
	}
	if err != nil {
		f.notify(failed(asked.To, err))
		return
	}
	Pipe(conn, ch, reqs)
}

// OpenTo opens a channel that the node joins with an address of its side. from is who connects, for the
// node's log.
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

// failed words why the node did not connect. A refusal by its rules is in its own words.
func failed(to Addr, err error) string {
	var open *ssh.OpenChannelError
	if !errors.As(err, &open) {
		return fmt.Sprintf("no connection to %s by way of the node: the connection to the node was lost", to)
	}
	if open.Message == "" {
		return fmt.Sprintf("no connection to %s by way of the node: %s", to, open.Reason)
	}
	why, remedy := fault.SplitLine(open.Message)
	if remedy != "" {
		why += "; " + remedy
	}
	return fmt.Sprintf("no connection to %s by way of the node: %s", to, why)
}
