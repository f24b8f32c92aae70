package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Nginx serves the files of one directory over HTTP/1.1 and, by prior knowledge, HTTP/2, both in the clear, and over TLS.
type Nginx struct {
	place   Place
	process *Process
	http1   int
	http2   int
	tls     int
}

// StartNginx serves root. dir is for nginx's own files.
func StartNginx(ctx context.Context, place Place, dir, root string) (*Nginx, error) {
	path, err := Tool("nginx")
	if err != nil {
		return nil, err
	}
	for _, p := range []*string{&dir, &root} {
		if *p, err = filepath.Abs(*p); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	n := &Nginx{place: place}
	for _, port := range []*int{&n.http1, &n.http2, &n.tls} {
		if *port, err = freePort(ctx, place); err != nil {
			return nil, err
		}
	}
	if err := selfSigned(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), place); err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, []byte(n.config(dir, root)), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), path, "-p", dir, "-c", conf, "-e", filepath.Join(dir, "error.log"))
	if n.process, err = startProcess(place, "nginx", cmd, filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	if err := n.process.waitReady(ctx, probeTCP(place, n.http1)); err != nil {
		return nil, errors.Join(err, n.Stop())
	}
	return n, nil
}

func (n *Nginx) config(dir, root string) string {
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // the directories of a benchmark are private to who runs it
	}
	return fmt.Sprintf(`%s
daemon off;
worker_processes 1;
pid %s/pid;
error_log %[2]s/error.log;
events { worker_connections 4096; }
http {
  access_log off;
  types { text/html html; text/plain txt sql; application/octet-stream bin tar; }
  sendfile on; tcp_nopush on; tcp_nodelay on;
  keepalive_requests 1000000;
  http2_max_concurrent_streams 256;
  client_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy; fastcgi_temp_path %[2]s/fastcgi; uwsgi_temp_path %[2]s/uwsgi; scgi_temp_path %[2]s/scgi;
  root %[3]s;
  server { listen %[4]s backlog=4096; }
  server { listen %[5]s http2; }
  server { listen %[6]s ssl http2; ssl_certificate %[2]s/cert.pem; ssl_certificate_key %[2]s/key.pem; }
}
`, user, dir, root, n.place.HostPort(n.http1), n.place.HostPort(n.http2), n.place.HostPort(n.tls))
}

// URL is where a file of the root is found by HTTP/1.1.
func (n *Nginx) URL(name string) string { return "http://" + n.place.HostPort(n.http1) + "/" + name }

// URL2 is where it is found by HTTP/2 without TLS.
func (n *Nginx) URL2(name string) string { return "http://" + n.place.HostPort(n.http2) + "/" + name }

// URLTLS is where it is found over TLS.
func (n *Nginx) URLTLS(name string) string { return "https://" + n.place.HostPort(n.tls) + "/" + name }

// Address is host and port of plain HTTP/1.1.
func (n *Nginx) Address() string { return n.place.HostPort(n.http1) }

// Stop ends the server at once.
func (n *Nginx) Stop() error { return n.process.Stop(syscall.SIGTERM) }

// Fetch downloads a URL by curl from a place, with HTTP/2 by prior knowledge when asked for, and hashes what comes.
func Fetch(ctx context.Context, place Place, url string, http2 bool) (Output, error) {
	path, err := Tool("curl")
	if err != nil {
		return Output{}, err
	}
	version := "--http1.1"
	if http2 {
		version = "--http2-prior-knowledge"
	}
	cmd := exec.CommandContext(ctx, path, "--silent", "--show-error", "--fail", "--insecure", "--noproxy", "*", version, url)
	return Stream(ctx, place, cmd)
}

// selfSigned writes a key and a certificate for the place's address, good for a day.
func selfSigned(certFile, keyFile string, place Place) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: place.Addr.String()}, IPAddresses: []net.IP{place.Addr.AsSlice()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
}
