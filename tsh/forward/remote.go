package forward

import (
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
)

// requestListener asks the node to listen on rule.From. It returns a Denied fault with the node's reason if
// the node does not, and Unavailable if the connection is lost. For port 0 the node chooses the port, which
// is told to the user.
func (f *Forwarder) requestListener(c *ssh.Client, rule Rule) error {
	kind, payload := "tcpip-forward", ssh.Marshal(struct {
		Host string
		Port uint32
	}{rule.From.Host, uint32(rule.From.Port)})
	if rule.From.Path != "" {
		kind, payload = "streamlocal-forward@openssh.com", ssh.Marshal(struct{ Path string }{rule.From.Path})
	}
	// The rule is registered before the request, because a connection may arrive before the answer.
	f.registerListener(rule, uint32(rule.From.Port))
	granted, answer, err := c.SendRequest(kind, true, payload)
	switch {
	case err != nil:
		return fault.Wrap(err, fault.Unavailable, "", "the connection to the node was lost", "connect again")
	case !granted:
		return listenRefusedFault(rule, string(answer))
	case rule.From.Path == "" && rule.From.Port == 0 && len(answer) == 4:
		port := binary.BigEndian.Uint32(answer)
		f.registerListener(rule, port)
		f.cfg.Notify(fmt.Sprintf("port %d on the node is forwarded to %s", port, rule.To))
	}
	return nil
}

// registerListener stores the rule for connections of a listener on the node. Port 0 is ignored: the node has
// yet to choose the port.
func (f *Forwarder) registerListener(rule Rule, port uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if rule.From.Path != "" {
		f.paths[rule.From.Path] = rule
	} else if port != 0 {
		f.ports[port] = rule
	}
}

// listenRefusedFault is the error of a node that does not listen. A Threshold node sends the reason in its
// answer.
func listenRefusedFault(rule Rule, answer string) error {
	msg := fmt.Sprintf("the node does not listen on %s", rule.From)
	hint := "choose another port; if your roles lack forward-remote, ask an administrator for it"
	reason, remedy := fault.SplitLine(answer)
	if reason != "" {
		msg += ": " + reason
	}
	if remedy != "" {
		hint = remedy
	}
	return fault.New(fault.Denied, "", msg, hint)
}

// handleChannels serves the channels of one type that the node opens, until the SSH connection ends. It
// rejects channels beyond maxRemoteConns at once.
func (f *Forwarder) handleChannels(c *ssh.Client, kind string, serve func(ssh.NewChannel)) {
	chans := c.HandleChannelOpen(kind)
	f.conns.Go(func() {
		for nc := range chans {
			select {
			case f.remoteSlots <- struct{}{}:
			default:
				const msg = "the node opened more than %d connections to this side at once"
				f.notify(fmt.Sprintf(msg, maxRemoteConns))
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

// ruleForPort finds the rule of a forwarded-tcpip channel (RFC 4254 section 7.2).
func (f *Forwarder) ruleForPort(extra []byte) (Rule, bool) {
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
	rule, ok := f.ports[m.Port]
	return rule, ok
}

// ruleForPath finds the rule of a forwarded-streamlocal channel (OpenSSH PROTOCOL section 2.4).
func (f *Forwarder) ruleForPath(extra []byte) (Rule, bool) {
	var m struct{ Path, Reserved string }
	if ssh.Unmarshal(extra, &m) != nil {
		return Rule{}, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	rule, ok := f.paths[m.Path]
	return rule, ok
}

// serveRemote serves a channel that the node opened for a connection to a remote listener: it connects to the
// target of the listener's rule on this side and copies in both directions. find returns the rule for the
// channel's data. Without a rule the channel is rejected: a hostile node must not reach this side unasked.
func (f *Forwarder) serveRemote(nc ssh.NewChannel, find func([]byte) (Rule, bool)) {
	defer f.count()()
	rule, ok := find(nc.ExtraData())
	if !ok {
		_ = nc.Reject(ssh.Prohibited, "the client did not request this forwarding")
		return
	}
	if rule.To == (Addr{}) {
		f.serveRemoteSOCKS(nc)
		return
	}
	conn, err := dial(rule.To)
	if err != nil {
		f.notify(fmt.Sprintf("no connection to %s: %s", rule.To, fault.DescribeNetwork(err)))
		_ = nc.Reject(ssh.ConnectionFailed, "connection refused on the client's side")
		return
	}
	defer conn.Close()
	if ch, reqs, err := nc.Accept(); err == nil {
		Pipe(conn, ch, reqs)
	}
}

// dial connects to an address on this machine's side: the target of -R, or ssh-agent.
func dial(a Addr) (stream, error) {
	network, addr := "unix", a.file()
	if a.Path == "" {
		network, addr = "tcp", a.String()
	}
	conn, err := net.DialTimeout(network, addr, dialTime)
	if err != nil {
		return nil, err
	}
	return conn.(stream), nil // TCP and Unix connections have CloseWrite
}

// serveRemoteSOCKS serves a channel of -R without a target: the program on the node says in SOCKS which
// address on this side it wants.
func (f *Forwarder) serveRemoteSOCKS(nc ssh.NewChannel) {
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	timeout := time.AfterFunc(socksTime, func() { _ = ch.Close() })
	req, err := ReadSOCKS(ch)
	if !timeout.Stop() {
		return
	}
	var conn stream
	if err == nil {
		conn, err = dial(req.To)
	}
	if req.Version != 0 {
		_, _ = ch.Write(req.Reply(err == nil))
	}
	if err != nil {
		f.notify(fmt.Sprintf("SOCKS from the node: %s", fault.DescribeNetwork(err)))
		f.conns.Go(func() { ssh.DiscardRequests(reqs) })
		return
	}
	defer conn.Close()
	Pipe(conn, ch, reqs)
}
