package forward

import (
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/sshclient"
)

// requestListener asks the node to listen on rule.From, and waits for the answer. For port 0 the node chooses
// the port, and requestListener tells it to the user. It returns a Denied fault with the node's reason if the
// node does not listen, and an Unavailable fault if the connection is lost.
func (f *Forwarder) requestListener(client *ssh.Client, rule Rule) error {
	requestType, payload := "tcpip-forward", ssh.Marshal(struct {
		Host string
		Port uint32
	}{rule.From.Host, uint32(rule.From.Port)})
	if rule.From.Path != "" {
		requestType = "streamlocal-forward@openssh.com"
		payload = ssh.Marshal(struct{ Path string }{rule.From.Path})
	}
	// The rule is registered before the request, because a connection may arrive before the answer.
	f.registerListener(rule, uint32(rule.From.Port))
	const wantReply = true
	granted, answer, err := client.SendRequest(requestType, wantReply, payload)
	switch {
	case err != nil:
		return forwardConnectionLost.Wrap(err, "")
	case !granted:
		return listenRefusedFault(rule, string(answer))
	case rule.From.isPortZero() && len(answer) == 4: // the answer is the port that the node chose
		port := binary.BigEndian.Uint32(answer)
		f.registerListener(rule, port)
		f.cfg.Notify(fmt.Sprintf("port %d on the node is forwarded to %s", port, rule.To))
	}
	return nil
}

// registerListener stores the rule by which connections to a listener on the node are forwarded. port is the
// port of a TCP listener. For port 0 it stores nothing: requestListener calls it again when the node has
// chosen the port.
func (f *Forwarder) registerListener(rule Rule, port uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if rule.From.Path != "" {
		f.paths[rule.From.Path] = rule
	} else if port != 0 {
		f.ports[port] = rule
	}
}

// listenRefusedFault returns a Denied fault for a node that refuses to listen for rule. answer is the payload
// of its refusal: a Threshold node sends a fault in it, other servers send nothing.
func listenRefusedFault(rule Rule, answer string) error {
	const ownHint = "choose another port; if your roles lack forward-remote, ask an administrator for it"
	refusal := sshclient.ReadRefusal(answer, nil)
	return listenRefused.New("", fault.Args{
		"address": rule.From,
		"why":     refusal.Why,
		"hint":    refusal.HintOr(ownHint),
	}).Because(refusal.Err)
}

// handleChannels starts a goroutine that calls serve, in a goroutine of its own, for each channel of the type
// that the node opens. It ends with the SSH connection. If maxRemoteConns channels of all types are being
// served, it rejects a further one at once, because a hostile node could open any number.
func (f *Forwarder) handleChannels(client *ssh.Client, channelType string, serve func(ssh.NewChannel)) {
	chans := client.HandleChannelOpen(channelType)
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

// ruleForPort returns the rule of the listener to which a forwarded-tcpip channel belongs. extra is the data
// of the channel's opening message (RFC 4254 section 7.2). It returns false if this Forwarder requested no
// such listener.
func (f *Forwarder) ruleForPort(extra []byte) (Rule, bool) {
	var opening struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}
	if ssh.Unmarshal(extra, &opening) != nil {
		return Rule{}, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	rule, ok := f.ports[opening.Port]
	return rule, ok
}

// ruleForPath is ruleForPort for a forwarded-streamlocal channel (OpenSSH PROTOCOL section 2.4).
func (f *Forwarder) ruleForPath(extra []byte) (Rule, bool) {
	var opening struct{ Path, Reserved string }
	if ssh.Unmarshal(extra, &opening) != nil {
		return Rule{}, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	rule, ok := f.paths[opening.Path]
	return rule, ok
}

// serveRemote serves a channel that the node opened for a connection to one of its listeners. findRule
// returns the rule of the listener from the data of the opening message. serveRemote connects to the rule's
// target on this side and copies in both directions until both have ended. If no rule is found, it rejects
// the channel: a node may only reach the targets that the user named. If the target cannot be reached, it
// rejects the channel and tells the user.
func (f *Forwarder) serveRemote(nc ssh.NewChannel, findRule func(extra []byte) (Rule, bool)) {
	defer f.countOpen()()
	rule, ok := findRule(nc.ExtraData())
	if !ok {
		_ = nc.Reject(ssh.Prohibited, "the client did not request this forwarding")
		return
	}
	if rule.To == (Addr{}) { // -R with a port alone
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
func dial(to Addr) (stream, error) {
	network, addr := "unix", to.file()
	if to.Path == "" {
		network, addr = "tcp", to.String()
	}
	conn, err := net.DialTimeout(network, addr, dialTime)
	if err != nil {
		return nil, err
	}
	return conn.(stream), nil // TCP and Unix connections have CloseWrite
}

// serveRemoteSOCKS serves a channel of -R without a target: the program on the node sends a SOCKS request
// with the address on this side that it wants. serveRemoteSOCKS connects to it and copies in both directions
// until both have ended. If that fails, it tells the user and the program.
func (f *Forwarder) serveRemoteSOCKS(nc ssh.NewChannel) {
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	timeout := time.AfterFunc(socksTime, func() { _ = ch.Close() }) // channels have no deadlines
	req, err := ReadSOCKS(ch)
	timedOut := !timeout.Stop()
	if timedOut {
		return
	}
	var conn stream
	if err == nil {
		conn, err = dial(req.To)
	}
	if req.Version != 0 { // the program sent enough to be answered
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
