package main

import (
	"crypto/tls"
	"fmt"
	"io"

	"github.com/threshold-access/threshold/auth"
	"github.com/threshold-access/threshold/internal/fault"
)

// check says what is wrong with the files, and changes and opens nothing that a running server has.
func check(o options, stdout io.Writer) error {
	s, err := readConfig(o.config)
	if err != nil {
		return err
	}
	if p := s.Proxy; p != nil && p.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile); err != nil {
			return fault.Wrap(
				err,
				fault.Invalid,
				"threshold check",
				"the web certificate cannot be used: "+err.Error(),
				"check spec.proxy.cert_file and key_file",
			)
		}
	}
	if o.bootstrap != "" {
		b, err := readFile(o.bootstrap)
		if err != nil {
			return err
		}
		if err := auth.CheckBootstrap(o.bootstrap, b); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s: ok\n", o.bootstrap)
	}
	fmt.Fprintf(stdout, "%s: ok, runs %s\n", o.config, s.parts())
	return nil
}
