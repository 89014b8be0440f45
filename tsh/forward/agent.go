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
	// agentBindTime bounds the first exchange with ssh-agent.
	agentBindTime = 5 * time.Second
	// maxReply bounds, in bytes, the agent's answer to it.
	maxReply = 4 << 10
)

// serveAgent connects a channel from the node to this machine's ssh-agent.
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

// bindSession tells ssh-agent that the requests that follow on this connection come from another machine
// (OpenSSH PROTOCOL.agent section 1, session-bind@openssh.com). Without it the agent would treat the node's
// requests as this machine's own and let it use keys whose destination constraints forbid exactly that. The
// keys of tsh login are such keys.
//
// The binding names a host key that is made for this purpose, because x/crypto does not reveal what the node
// signed. So no destination constraint matches: through tsh ssh -A a constrained key can never be used, and
// every other key can. An agent without constraints does not know the message and answers with a failure,
// which is fine.
func bindSession(conn stream) error {
	timeout := time.AfterFunc(agentBindTime, func() { _ = conn.Close() })
	defer timeout.Stop()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		return err
	}
	session := make([]byte, 32)
	_, _ = rand.Read(session) // crypto/rand never fails since Go 1.24
	sig, err := signer.Sign(rand.Reader, session)
	if err != nil {
		return err
	}
	body := ssh.Marshal(struct {
		Name                     string `sshtype:"27"` // SSH_AGENTC_EXTENSION
		Host, Session, Signature []byte
		Forwarded                bool
	}{"session-bind@openssh.com", signer.PublicKey().Marshal(), session, ssh.Marshal(sig), true})
	message := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	if _, err := conn.Write(message); err != nil {
		return err
	}
	return skipReply(conn)
}

// skipReply reads one message of the agent and nothing after it: what follows is for the node.
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
