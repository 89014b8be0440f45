// Package formbrowser answers: what does a browser do with pages that only have forms?
//
// It keeps cookies, follows redirects, and fills in and submits HTML forms. The demo enrols its two users
// with it and the integration tests log in with it, both through the pages that users see. It runs no
// scripts; the login pages have none.
package formbrowser

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/html"
)

const (
	maxPageBytes = 1 << 20 // a longer page is cut off
	pageTimeout  = 20 * time.Second
	maxRedirects = 10
)

// Browser is one user's browser, with cookies of its own.
type Browser struct {
	http *http.Client
}

// New makes a browser that trusts web servers under roots.
//
// It follows redirects, with one exception: a redirect to an address that begins with stopBefore is not
// followed, and the page is the redirecting one, with Page.Location set. A caller stops a login that way
// before its last redirect, which leads to tsh. With an empty stopBefore it follows all.
func New(roots *x509.CertPool, stopBefore string) *Browser {
	jar, _ := cookiejar.New(nil /* no options */) // fails only because of options
	return &Browser{http: &http.Client{
		Jar:     jar,
		Timeout: pageTimeout,
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return fmt.Errorf("more than %d redirects", maxRedirects)
			}
			if stopBefore != "" && strings.HasPrefix(r.URL.String(), stopBefore) {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}}
}

// DialWith makes the browser open its connections by dial, and returns the browser. A test uses it to reach
// machines that have no name or route here.
func (b *Browser) DialWith(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *Browser {
	b.http.Transport.(*http.Transport).DialContext = dial
	return b
}

// Page is a page that the browser has loaded.
type Page struct {
	URL      *url.URL
	Status   int
	Location string // where the page redirects to; set only if the browser did not follow it
	Header   http.Header
	Body     string
	root     *html.Node
	browser  *Browser
}

// Open loads the page at an address.
func (b *Browser) Open(ctx context.Context, address string) (*Page, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("open page: %w", err)
	}
	return b.do(r)
}

// do sends the request and returns the page that it leads to, after redirects. A page with an error status is
// a page as well, not an error.
func (b *Browser) do(r *http.Request) (*Page, error) {
	resp, err := b.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("open page: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPageBytes))
	if err != nil {
		return nil, fmt.Errorf("read page: %w", err)
	}
	root, err := html.Parse(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("parse page: %w", err)
	}
	return &Page{
		URL:      resp.Request.URL,
		Status:   resp.StatusCode,
		Location: resp.Header.Get("Location"),
		Header:   resp.Header,
		Body:     string(body),
		root:     root,
		browser:  b,
	}, nil
}

// Submit fills in and submits a form, and returns the page that this leads to. It takes the first form of the
// page that has all the fields. It sends the form's other fields, such as hidden ones, with the values that
// they have. If there is no such form, the error has the text of the page.
func (p *Page) Submit(ctx context.Context, fields map[string]string) (*Page, error) {
	for form := range elements(p.root, "form") {
		values, ok := fill(form, fields)
		if ok {
			return p.send(ctx, form, values)
		}
	}
	return nil, fmt.Errorf(
		"page %s (status %d) has no form with these fields; it says: %s",
		p.URL.Path, p.Status, p.Text(),
	)
}

// fill returns the values of all inputs of the form, those in fields with the value given there. It returns
// false if the form lacks one of fields.
func fill(form *html.Node, fields map[string]string) (url.Values, bool) {
	values := url.Values{}
	for input := range elements(form, "input") {
		if name := attr(input, "name"); name != "" && attr(input, "type") != "submit" {
			values.Set(name, attr(input, "value"))
		}
	}
	for name, value := range fields {
		if _, has := values[name]; !has {
			return nil, false
		}
		values.Set(name, value)
	}
	return values, true
}

// send submits the form with the values: by GET in the query or by POST in the body, as its method says, to
// the address in its action. A POST has the headers by which a server recognizes that it comes from a page of
// its own (Origin, Sec-Fetch-Site).
func (p *Page) send(ctx context.Context, form *html.Node, values url.Values) (*Page, error) {
	target, err := p.URL.Parse(attr(form, "action"))
	if err != nil {
		return nil, fmt.Errorf("form action: %w", err)
	}
	method, body := http.MethodGet, io.Reader(nil)
	if strings.EqualFold(attr(form, "method"), http.MethodPost) {
		method, body = http.MethodPost, strings.NewReader(values.Encode())
	} else {
		target.RawQuery = values.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return nil, fmt.Errorf("submit form: %w", err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", p.URL.Scheme+"://"+p.URL.Host)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	return p.browser.do(r)
}

// Follow loads the page that the first link leads to whose id or text is idOrText.
func (p *Page) Follow(ctx context.Context, idOrText string) (*Page, error) {
	for link := range elements(p.root, "a") {
		if attr(link, "id") != idOrText && !strings.EqualFold(strings.TrimSpace(text(link)), idOrText) {
			continue
		}
		target, err := p.URL.Parse(attr(link, "href"))
		if err != nil {
			return nil, fmt.Errorf("link: %w", err)
		}
		return p.browser.Open(ctx, target.String())
	}
	return nil, fmt.Errorf("page %s has no link %q", p.URL.Path, idOrText)
}

// ByID returns the text of the element with the id, without surrounding space, or "".
func (p *Page) ByID(id string) string {
	for n := range p.root.Descendants() {
		if n.Type == html.ElementNode && attr(n, "id") == id {
			return strings.TrimSpace(text(n))
		}
	}
	return ""
}

// HasField reports whether a form on the page has the field.
func (p *Page) HasField(field string) bool {
	for input := range elements(p.root, "input") {
		if attr(input, "name") == field {
			return true
		}
	}
	return false
}

// Text returns the text of the page in one line.
func (p *Page) Text() string {
	for body := range elements(p.root, "body") {
		return strings.Join(strings.Fields(text(body)), " ")
	}
	return ""
}
