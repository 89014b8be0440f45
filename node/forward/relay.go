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

// relay copies bytes between the channel and conn until both directions have ended, the client closes the
// channel, or ctx ends. It then closes both, and waits for its goroutines and for the client to close its
// side of the channel. It refuses all requests of the channel.
func (f *Forwarder) relay(
	ctx context.Context, channel ssh.Channel, requests <-chan *ssh.Request, conn net.Conn,
) {
	stop := context.AfterFunc(ctx, func() { conn.Close(); channel.Close() })
	defer stop()
	var directions sync.WaitGroup
	f.goGuarded(&directions, func() { copyToConn(conn, channel) })
	f.goGuarded(&directions, func() { copyToChannel(channel, conn) })
	var refusing sync.WaitGroup
	f.goGuarded(&refusing, func() {
		for r := range requests { // ends when the client closes the channel, or with the SSH connection
			_ = r.Reply(false, nil)
		}
		// The client takes no more data: reads fail from now on. What it has sent is still delivered to conn.
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		_ = conn.SetWriteDeadline(time.Now().Add(lingerTime))
	})
	directions.Wait()
	_ = channel.Close()
	_ = conn.Close()
	refusing.Wait()
}

// copyToConn copies what the client sends to conn. At the client's end of file it closes the sending half of
// conn. After an error it closes the channel, so that the client sends no more, and ends reads from conn.
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

// copyToChannel copies what conn sends to the client. At the end of file it tells the client of it; the
// client may still send. After an error it closes the channel.
func copyToChannel(ch ssh.Channel, conn net.Conn) {
	if copyUntilEOF(ch, conn) {
		_ = ch.CloseWrite()
		return
	}
	_ = ch.Close()
}

// copyUntilEOF copies bytes until the end of file or an error, and reports whether it reached the end of
// file. It hides ReadFrom and WriteTo of the two, which would allocate buffers of their own.
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
