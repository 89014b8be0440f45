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
	// maxReply bounds its answer, in bytes.
	maxReply = 4 << 10
)

// serveAgent serves a channel that leads to this machine's ssh-agent.
func (f *Forwarder) serveAgent(nc ssh.NewChannel) {
	conn, err := dial(Addr{Path: f.cfg.Agent})
	if err == nil {
		defer conn.Close()
		err = bind(conn)
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

// bind tells ssh-agent that what follows on this connection comes from another machine (OpenSSH
// PROTOCOL.agent section 1, session-bind@openssh.com). Without it the agent would take the node's questions
// for this machine's own, and let it use keys whose destination constraints forbid just that: those of tsh
// login are such keys.
//
// The binding names a host key made for the purpose, because x/crypto does not give out what the node signed.
// So no destination constraint fits: a constrained key is never used by way of tsh ssh -A, and every other
// one is. An agent without constraints does not know the message, and says so.
func bind(conn end) error {
	late := time.AfterFunc(agentBindTime, func() { _ = conn.Close() })
	defer late.Stop()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		return err
	}
	session := make([]byte, 32)
	_, _ = rand.Read(session) // never fails since Go 1.24
	sig, err := signer.Sign(rand.Reader, session)
	if err != nil {
		return err
	}
	body := ssh.Marshal(struct {
		Name                     string `sshtype:"27"` // SSH_AGENTC_EXTENSION
		Host, Session, Signature []byte
		Forwarded                bool
	}{"session-bind@openssh.com", signer.PublicKey().Marshal(), session, ssh.Marshal(sig), true})
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)); err != nil {
		return err
	}
	return skipReply(conn)
}

// skipReply reads one message of the agent's and no further: what follows is for the node.
func skipReply(conn io.Reader) error {
	var length [4]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n == 0 || n > maxReply {
		return fmt.Errorf("it sends %d bytes where one would do", n)
	}
	_, err := io.CopyN(io.Discard, conn, int64(n))
	return err
}
