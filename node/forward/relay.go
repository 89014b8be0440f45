package forward

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// copyBytes is the size of copy buffers; they are pooled.
	copyBytes = 32 << 10
	// lingerTime is how long what a client sent may take to be delivered once the client has closed its
	// channel.
	lingerTime = 10 * time.Second
)

var buffers = sync.Pool{New: func() any { b := make([]byte, copyBytes); return &b }}

// relay moves bytes both ways, each to its own end, until both are done, the client closes the channel, or
// ctx ends. It closes both.
func (f *Forwarder) relay(ctx context.Context, ch ssh.Channel, reqs <-chan *ssh.Request, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close(); ch.Close() })
	defer stop()
	var ways sync.WaitGroup
	f.goGuarded(&ways, func() { copyToConn(conn, ch) })
	f.goGuarded(&ways, func() { copyToChannel(ch, conn) })
	var asked sync.WaitGroup
	f.goGuarded(&asked, func() {
		for r := range reqs {
			_ = r.Reply(false, nil)
		}
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // the channel is closed: nobody takes what would still come
		_ = conn.SetWriteDeadline(time.Now().Add(lingerTime))
	})
	ways.Wait()
	_ = ch.Close()
	_ = conn.Close()
	asked.Wait() // the client closes its side too, or the connection ends
}

// copyToConn delivers what the client sends. Its end is passed on; after a failure nothing more is taken from
// the client.
func copyToConn(conn net.Conn, ch ssh.Channel) {
	if !copyUntilEOF(conn, ch) {
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		_ = ch.Close()
		return
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// copyToChannel delivers what comes back, and its end.
func copyToChannel(ch ssh.Channel, conn net.Conn) {
	if copyUntilEOF(ch, conn) {
		_ = ch.CloseWrite()
		return
	}
	_ = ch.Close()
}

// copyUntilEOF moves bytes until their end, and reports whether it was reached.
func copyUntilEOF(to io.Writer, from io.Reader) bool {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	_, err := io.CopyBuffer(
		struct{ io.Writer }{to},
		struct{ io.Reader }{from},
		*buf,
	) // the bare types have copies of their own, with buffers of their own
	return err == nil
}

// activityChannel is a channel that tells of the client's data.
type activityChannel struct {
	ssh.Channel
	onData func()
}

func (h activityChannel) Read(b []byte) (int, error) {
	n, err := h.Channel.Read(b)
	if n > 0 {
		h.onData()
	}
	return n, err
}
