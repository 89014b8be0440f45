package forward

import (
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
)

// requestListener asks the node to listen for a rule.
func (f *Forwarder) requestListener(c *ssh.Client, r Rule) error {
	kind, payload := "tcpip-forward", ssh.Marshal(struct {
		Host string
		Port uint32
	}{r.From.Host, uint32(r.From.Port)})
	if r.From.Path != "" {
		kind, payload = "streamlocal-forward@openssh.com", ssh.Marshal(struct{ Path string }{r.From.Path})
	}
	f.registerListener(r, uint32(r.From.Port)) // before asking: a connection may come at once
	granted, answer, err := c.SendRequest(kind, true, payload)
	switch {
	case err != nil:
		return fault.Wrap(err, fault.Unavailable, "", "the connection to the node was lost", "connect again")
	case !granted:
		return listenRefused(r, string(answer))
	case r.From.Path == "" && r.From.Port == 0 && len(answer) == 4:
		port := binary.BigEndian.Uint32(answer)
		f.registerListener(r, port)
		f.cfg.Notify(fmt.Sprintf("port %d of the node is forwarded to %s", port, r.To))
	}
	return nil
}

// registerListener takes note of a listener on the node.
func (f *Forwarder) registerListener(r Rule, port uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.From.Path != "" {
		f.paths[r.From.Path] = r
	} else if port != 0 {
		f.ports[port] = r
	}
}

// listenRefused tells that the node listens to nothing; one of ours says why in its answer.
func listenRefused(r Rule, why string) error {
	msg, hint := fmt.Sprintf(
		"the node does not listen on %s",
		r.From,
	), "choose another port; if your roles lack forward-remote, ask an administrator for it"
	why, remedy := fault.SplitLine(why)
	if why != "" {
		msg += ": " + why
	}
	if remedy != "" {
		hint = remedy
	}
	return fault.New(fault.Denied, "", msg, hint)
}

// handleChannels serves the channels of a kind that the node opens, until the connection ends. Beyond
// maxRemoteConns at once they are refused.
func (f *Forwarder) handleChannels(c *ssh.Client, kind string, serve func(ssh.NewChannel)) {
	chans := c.HandleChannelOpen(kind)
	f.conns.Go(func() {
		for nc := range chans {
			select {
			case f.remoteSlots <- struct{}{}:
			default:
				f.notify(
					fmt.Sprintf(
						"the node wants more than %d connections to this side at once",
						maxRemoteConns,
					),
				)
				_ = nc.Reject(ssh.ResourceShortage, "too many connections to the client's side")
				continue
			}
			f.conns.Go(func() {
				defer func() { <-f.remoteSlots }()
				serve(nc)
			})
		}
	})
}

func (f *Forwarder) forPort(extra []byte) (Rule, bool) {
	var m struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}
	if ssh.Unmarshal(extra, &m) != nil {
		return Rule{}, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok := f.ports[m.Port]
	return r, ok
}

func (f *Forwarder) forPath(extra []byte) (Rule, bool) {
	var m struct{ Path, Reserved string }
	if ssh.Unmarshal(extra, &m) != nil {
		return Rule{}, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok := f.paths[m.Path]
	return r, ok
}

// serveRemote serves a channel that leads to this side. A node opens only what it was asked for.
func (f *Forwarder) serveRemote(nc ssh.NewChannel, find func([]byte) (Rule, bool)) {
	defer f.count()()
	r, ok := find(nc.ExtraData())
	if !ok {
		_ = nc.Reject(ssh.Prohibited, "nobody asked for this")
		return
	}
	if r.To == (Addr{}) {
		f.serveRemoteSOCKS(nc)
		return
	}
	conn, err := dial(r.To)
	if err != nil {
		f.notify(fmt.Sprintf("no connection to %s: %s", r.To, fault.DescribeNetwork(err)))
		_ = nc.Reject(ssh.ConnectionFailed, "connection refused on the client's side")
		return
	}
	defer conn.Close()
	if ch, reqs, err := nc.Accept(); err == nil {
		Pipe(conn, ch, reqs)
	}
}

func dial(a Addr) (end, error) {
	network, addr := "unix", a.file()
	if a.Path == "" {
		network, addr = "tcp", a.String()
	}
	conn, err := net.DialTimeout(network, addr, dialTime)
	if err != nil {
		return nil, err
	}
	return conn.(end), nil // TCP and Unix sockets are
}

// serveRemoteSOCKS serves -R without a target: programs on the node say where on this side they want to.
func (f *Forwarder) serveRemoteSOCKS(nc ssh.NewChannel) {
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	late := time.AfterFunc(socksTime, func() { _ = ch.Close() })
	asked, err := ReadSOCKS(ch)
	if !late.Stop() {
		return
	}
	var conn end
	if err == nil {
		conn, err = dial(asked.To)
	}
	if asked.Version != 0 {
		_, _ = ch.Write(asked.Reply(err == nil))
	}
	if err != nil {
		f.notify(fmt.Sprintf("SOCKS from the node: %s", fault.DescribeNetwork(err)))
		f.conns.Go(func() { ssh.DiscardRequests(reqs) })
		return
	}
	defer conn.Close()
	Pipe(conn, ch, reqs)
}
