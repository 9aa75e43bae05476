"""Apache Airflow 3."""
