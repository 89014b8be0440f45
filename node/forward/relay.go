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
	// lingerTime is how long what a client sent may take to be delivered once the client has closed its channel.
	lingerTime = 10 * time.Second
)

var buffers = sync.Pool{New: func() any { b := make([]byte, copyBytes); return &b }}

// relay moves bytes both ways, each to its own end, until both are done, the client closes the channel, or ctx ends. It closes both.
func (f *Forwards) relay(ctx context.Context, ch ssh.Channel, reqs <-chan *ssh.Request, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close(); ch.Close() })
	defer stop()
	var ways sync.WaitGroup
	f.beside(&ways, func() { toConn(conn, ch) })
	f.beside(&ways, func() { toChannel(ch, conn) })
	var asked sync.WaitGroup
	f.beside(&asked, func() {
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

// toConn delivers what the client sends. Its end is passed on; after a failure nothing more is taken from the client.
func toConn(conn net.Conn, ch ssh.Channel) {
	if !pour(conn, ch) {
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		_ = ch.Close()
		return
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// toChannel delivers what comes back, and its end.
func toChannel(ch ssh.Channel, conn net.Conn) {
	if pour(ch, conn) {
		_ = ch.CloseWrite()
		return
	}
	_ = ch.Close()
}

// pour moves bytes until their end, and reports whether it was reached.
func pour(to io.Writer, from io.Reader) bool {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, *buf) // the bare types have copies of their own, with buffers of their own
	return err == nil
}

// heard is a channel that tells of the client's data.
type heard struct {
	ssh.Channel
	tell func()
}

func (h heard) Read(b []byte) (int, error) {
	n, err := h.Channel.Read(b)
	if n > 0 {
		h.tell()
	}
	return n, err
}
