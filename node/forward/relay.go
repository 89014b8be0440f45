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
	// copyBytes is the size of copy buffers, which are pooled.
	copyBytes = 32 << 10
	// lingerTime bounds the delivery of what a client sent, once the client has closed its channel.
	lingerTime = 10 * time.Second
)

var buffers = sync.Pool{New: func() any { b := make([]byte, copyBytes); return &b }}

// relay copies bytes in both directions until both have ended, the client closes the channel, or ctx ends. It
// closes the channel and the connection, and waits for the client to close its side of the channel.
func (f *Forwarder) relay(ctx context.Context, ch ssh.Channel, reqs <-chan *ssh.Request, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close(); ch.Close() })
	defer stop()
	var directions sync.WaitGroup
	f.goGuarded(&directions, func() { copyToConn(conn, ch) })
	f.goGuarded(&directions, func() { copyToChannel(ch, conn) })
	var requests sync.WaitGroup
	f.goGuarded(&requests, func() {
		for r := range reqs { // closed when the client closes the channel, or with the SSH connection
			_ = r.Reply(false, nil)
		}
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // nobody takes what would still come
		_ = conn.SetWriteDeadline(time.Now().Add(lingerTime))
	})
	directions.Wait()
	_ = ch.Close()
	_ = conn.Close()
	requests.Wait()
}

// copyToConn delivers what the client sends, and its end of file. After an error it closes the channel, so
// that the client sends no more.
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

// copyToChannel delivers what the connection sends, and its end of file.
func copyToChannel(ch ssh.Channel, conn net.Conn) {
	if copyUntilEOF(ch, conn) {
		_ = ch.CloseWrite()
		return
	}
	_ = ch.Close()
}

// copyUntilEOF copies bytes and reports whether it reached the end of file. It hides ReadFrom and WriteTo of
// the two, which would allocate buffers of their own.
func copyUntilEOF(to io.Writer, from io.Reader) bool {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, *buf)
	return err == nil
}

// activityChannel calls onData whenever data of the client is read.
type activityChannel struct {
	ssh.Channel
	onData func()
}

func (c activityChannel) Read(b []byte) (int, error) {
	n, err := c.Channel.Read(b)
	if n > 0 {
		c.onData()
	}
	return n, err
}
