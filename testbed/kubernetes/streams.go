package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

const kubeletPort = 10250

// serve answers the API server: `kubectl exec` and `kubectl logs`. Only the cluster's authority is believed.
func (k *kubelet) serve(ctx context.Context) error {
	path := func(name string) string { return filepath.Join(k.settings.folder, name) }
	pem, err := os.ReadFile(path("ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	routes := http.NewServeMux()
	routes.HandleFunc("/exec/{namespace}/{pod}/{container}", k.exec)
	routes.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", k.logs)
	server := &http.Server{
		Addr:    fmt.Sprintf("%s:%d", k.settings.address, kubeletPort),
		Handler: routes,
		TLSConfig: &tls.Config{
			ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"http/1.1"},
		},
		ReadHeaderTimeout: 10 * time.Second,
	}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	err = server.ListenAndServeTLS(path("kubelet.crt"), path("kubelet.key"))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (k *kubelet) exec(writer http.ResponseWriter, request *http.Request) {
	pod, spec, err := k.container(request)
	if err != nil {
		http.Error(writer, err.Error(), http.StatusNotFound)
		return
	}
	if err := request.ParseForm(); err != nil {
		http.Error(writer, err.Error(), http.StatusBadRequest)
		return
	}
	options, err := remotecommand.NewOptions(request)
	if err != nil {
		http.Error(writer, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(writer, request, execution{pod, spec}, pod.object.Name, string(pod.object.UID),
		spec.Name, request.Form["command"], options, time.Hour, 30*time.Second,
		remotecommand.SupportedStreamingProtocols)
}

func (k *kubelet) logs(writer http.ResponseWriter, request *http.Request) {
	pod, spec, err := k.container(request)
	if err != nil {
		http.Error(writer, err.Error(), http.StatusNotFound)
		return
	}
	http.ServeFile(writer, request, pod.log(spec.Name))
}

func (k *kubelet) container(request *http.Request) (*pod, corev1.Container, error) {
	found, err := k.find(request.PathValue("namespace"), request.PathValue("pod"))
	if err != nil {
		return nil, corev1.Container{}, err
	}
	if !found.stands() {
		return nil, corev1.Container{}, fmt.Errorf("%s has not started yet", found.name())
	}
	name := request.PathValue("container")
	for _, spec := range found.object.Spec.Containers {
		if spec.Name == name {
			return found, spec, nil
		}
	}
	return nil, corev1.Container{}, fmt.Errorf("%s has no container %s", found.name(), name)
}

// execution runs one command of `kubectl exec`; there are no terminals.
type execution struct {
	pod  *pod
	spec corev1.Container
}

func (e execution) ExecInContainer(
	ctx context.Context, _, _, _ string, command []string, in io.Reader, out, errors io.WriteCloser,
	_ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration,
) error {
	child := exec.CommandContext(ctx, "nsenter", e.pod.inside(e.spec, command)...)
	child.Stdin = in
	if out != nil {
		child.Stdout = out
	}
	if errors != nil {
		child.Stderr = errors
	}
	err := child.Run()
	if failed, is := err.(*exec.ExitError); is {
		return utilexec.CodeExitError{Err: failed, Code: failed.ExitCode()}
	}
	return err
}
