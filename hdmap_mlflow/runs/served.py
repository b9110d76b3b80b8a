"""The script of a run's MLflow model: MLflow runs it as text when it loads the model, and nothing is unpickled."""

from hdmap_mlflow.runs import predict
from hdmap_mlflow.tracking.model import serve

serve(predict.open_model)
