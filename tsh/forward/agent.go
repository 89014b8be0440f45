package forward

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
)

const (
	// agentBindTime bounds the first exchange with ssh-agent, that of bindSession.
	agentBindTime = 5 * time.Second
	// maxReply bounds, in bytes, the agent's answer in that exchange.
	maxReply = 4 << 10
)

// serveAgent serves a channel that the node opened for its ssh-agent forwarding: it connects the channel to
// this machine's ssh-agent. It binds the connection first (see bindSession). If that fails, it rejects the
// channel, so that no request of the node reaches an agent that takes it for one of this machine.
func (f *Forwarder) serveAgent(nc ssh.NewChannel) {
	conn, err := dial(Addr{Path: f.cfg.Agent})
	if err == nil {
		defer conn.Close()
		err = bindSession(conn)
	}
	if err != nil {
		f.notify(fmt.Sprintf("ssh-agent: %s", fault.DescribeNetwork(err)))
		_ = nc.Reject(ssh.ConnectionFailed, "the client's agent does not answer")
		return
	}
	if ch, reqs, err := nc.Accept(); err == nil {
		Pipe(conn, ch, reqs)
	}
}

// bindSession tells ssh-agent that all later requests on conn come from another machine (OpenSSH
// PROTOCOL.agent section 1, session-bind@openssh.com). Without this message the agent would take the node's
// requests for requests of this machine, and let the node use keys whose destination constraints permit them
// only to this machine. The keys of tsh login are such keys. bindSession returns an error if the exchange
// fails; whether the agent accepted the binding does not matter.
//
// OpenSSH binds with the node's host key and the node's signature of the session. x/crypto/ssh does not show
// that signature, so bindSession makes a host key and signs a random session with it. No destination
// constraint names this key: through tsh ssh -A the node can never use a constrained key, and it can use
// every other key. An agent that has no constraints does not know the message and answers with a failure; its
// keys are all unconstrained, so nothing is lost.
func bindSession(conn stream) error {
	timeout := time.AfterFunc(agentBindTime, func() { _ = conn.Close() })
	defer timeout.Stop()
	_, hostKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	signer, err := ssh.NewSignerFromSigner(hostKey)
	if err != nil {
		return err
	}
	sessionID := make([]byte, 32)
	_, _ = rand.Read(sessionID) // crypto/rand never fails since Go 1.24
	signature, err := signer.Sign(rand.Reader, sessionID)
	if err != nil {
		return err
	}
	body := ssh.Marshal(struct {
		Name                       string `sshtype:"27"` // SSH_AGENTC_EXTENSION
		Host, SessionID, Signature []byte
		IsForwarding               bool // the connection is for requests of the other machine
	}{"session-bind@openssh.com", signer.PublicKey().Marshal(), sessionID, ssh.Marshal(signature), true})
	message := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	if _, err := conn.Write(message); err != nil {
		return err
	}
	return skipReply(conn)
}

// skipReply reads one message of the agent, whatever it says, and no byte after it: the next bytes answer the
// node's requests. It returns an error for a message of no byte or of more than maxReply.
func skipReply(conn io.Reader) error {
	var length [4]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n == 0 || n > maxReply {
		return fmt.Errorf("its answer has a length of %d bytes, want 1 to %d", n, maxReply)
	}
	_, err := io.CopyN(io.Discard, conn, int64(n))
	return err
}
