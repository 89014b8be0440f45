package mux

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A client that asks and asks and reads no answer holds its connection no longer than auth would, were it
// auth's own.
func TestAClientThatReadsNothingIsDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, near := net.Pipe()
		auth, up := net.Pipe()
		defer client.Close()
		ended := make(chan struct{})
		go func() { defer close(ended); relay(near, up) }()
		start := time.Now()
		if _, err := auth.Write([]byte("an answer")); err != nil {
			t.Fatal(err)
		}
		auth.Close()
		<-ended
		if took := time.Since(start); took > authLinger {
			t.Errorf("got it held for %s, want %s at most", took, authLinger)
		}
	})
}
